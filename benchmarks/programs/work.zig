// Sort, hash map, strings, matrix product, bits, memory and floating point, with the standard library.
const std = @import("std");

const n = 64;

noinline fn multiply(a: []const f64, b: []const f64, out: []f64) void {
    for (0..n) |i| {
        for (0..n) |k| {
            for (0..n) |j| {
                out[i * n + j] = @mulAdd(f64, a[i * n + k], b[k * n + j], out[i * n + j]);
            }
        }
    }
}

noinline fn bits(words: []const u64) u64 {
    var sum: u64 = 0;
    for (words) |word| {
        sum +%= @as(u64, @popCount(word)) + @as(u64, @ctz(word)) + @as(u64, @clz(word));
        sum ^= word & (0 -% word);
        sum ^= word >> @truncate(sum & 63);
    }
    return sum;
}

noinline fn norm(values: []const f32) f32 {
    var sum: f32 = 0;
    for (values) |value| sum += value * value + 0.5;
    return @sqrt(sum);
}

pub fn main() !void {
    const allocator = std.heap.page_allocator;
    var words: [1024]u64 = undefined;
    var values: [1024]f32 = undefined;
    var state: u64 = 1;
    var counts = std.AutoHashMap(u64, u32).init(allocator);
    defer counts.deinit();
    for (&words, &values) |*word, *value| {
        state = state *% 6364136223846793005 +% 1442695040888963407;
        word.* = state;
        value.* = @floatFromInt(state >> 40);
        try counts.put(state >> 56, 1);
    }
    std.mem.sort(u64, &words, {}, std.sort.asc(u64));
    const a = try allocator.alloc(f64, n * n);
    const b = try allocator.alloc(f64, n * n);
    const c = try allocator.alloc(f64, n * n);
    @memset(a, 1.5);
    @memset(b, 0.5);
    @memset(c, 0);
    multiply(a, b, c);
    const text = "strings of some length, in which others are looked for";
    var copy: [text.len]u8 = undefined;
    @memcpy(&copy, text);
    std.debug.print("{d} {d} {d} {d} {?d}\n", .{ c[1], bits(&words), norm(&values), counts.count(), std.mem.indexOf(u8, &copy, "look") });
}
