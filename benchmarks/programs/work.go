// Sort, hash map, strings, matrix product, bits, memory and floating point, with the standard library.
package main

import (
	"crypto/sha256"
	"fmt"
	"math"
	"math/bits"
	"os"
	"sort"
	"strings"
)

const n = 64

//go:noinline
func multiply(a, b, out []float64) {
	for i := 0; i < n; i++ {
		for k := 0; k < n; k++ {
			for j := 0; j < n; j++ {
				out[i*n+j] = math.FMA(a[i*n+k], b[k*n+j], out[i*n+j])
			}
		}
	}
}

//go:noinline
func count(words []uint64) uint64 {
	var sum uint64
	for _, word := range words {
		sum += uint64(bits.OnesCount64(word) + bits.TrailingZeros64(word) + bits.LeadingZeros64(word))
		sum ^= word & -word
		sum ^= word &^ sum
		sum ^= word >> (sum & 63)
	}
	return sum
}

func main() {
	state := uint64(len(os.Args))
	words := make([]uint64, 4096)
	counts := map[string]int{}
	for i := range words {
		state = state*6364136223846793005 + 1442695040888963407
		words[i] = state
		counts[fmt.Sprintf("%x", state>>56)]++
	}
	sort.Slice(words, func(i, j int) bool { return words[i] < words[j] })
	a, b, c := make([]float64, n*n), make([]float64, n*n), make([]float64, n*n)
	for i := range a {
		a[i], b[i] = float64(i), math.Floor(float64(n*n-i)/3)
	}
	multiply(a, b, c)
	text := strings.ToUpper(strings.Join(os.Args, " "))
	copied := make([]byte, len(text))
	copy(copied, text)
	sum := sha256.Sum256(copied)
	fmt.Println(c[1], count(words), len(counts), math.Sqrt(c[2]), strings.Count(text, "X"), sum[0])
}
