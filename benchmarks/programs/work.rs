// Sort, hash map, strings, matrix product, bits, memory and floating point, with the standard library.
use std::collections::{BTreeMap, HashMap};

const N: usize = 64;

#[inline(never)]
fn multiply(a: &[f64], b: &[f64], out: &mut [f64]) {
    for i in 0..N {
        for k in 0..N {
            for j in 0..N {
                out[i * N + j] += a[i * N + k] * b[k * N + j];
            }
        }
    }
}

#[inline(never)]
fn bits(words: &[u64]) -> u64 {
    let mut sum = 0u64;
    for &word in words {
        sum = sum.wrapping_add(u64::from(word.count_ones() + word.trailing_zeros() + word.leading_zeros()));
        sum ^= word & word.wrapping_neg();
        sum ^= word >> (sum & 63);
    }
    sum
}

#[inline(never)]
fn norm(values: &[f32]) -> f32 {
    values.iter().map(|x| x.mul_add(*x, 0.5)).sum::<f32>().sqrt()
}

fn main() {
    let mut state = std::env::args().count() as u64;
    let mut words: Vec<u64> = (0..4096)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state
        })
        .collect();
    let mut counts: HashMap<String, u32> = HashMap::new();
    let mut ordered: BTreeMap<u64, u64> = BTreeMap::new();
    for &word in &words {
        *counts.entry(format!("{:x}", word >> 56)).or_insert(0) += 1;
        ordered.insert(word >> 50, word);
    }
    words.sort();
    let mut others = words.clone();
    others.sort_unstable_by(|a, b| b.cmp(a));
    let a = vec![1.5f64; N * N];
    let b = vec![0.5f64; N * N];
    let mut c = vec![0f64; N * N];
    multiply(&a, &b, &mut c);
    let values: Vec<f32> = words.iter().map(|&w| (w >> 40) as f32).collect();
    let mut copy = vec![0u64; others.len()];
    copy.copy_from_slice(&others);
    let text: String = counts.keys().map(|k| k.to_uppercase()).collect();
    println!("{} {} {} {} {}", c[1], bits(&copy), norm(&values), ordered.len(), text.matches("A").count());
}
