package namehash

import (
	"math/bits"
	"strconv"
	"strings"
	"testing"
)

// Interfaces of running Pods have these values in their names: they never change.
func TestOf_KnownNames_ValuesOfEveryVersion(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  uint64
	}{
		{nil, 0x8570e250fe4c2473},
		{[]string{"a"}, 0x82b19d9859a61322},
		{[]string{"a", "b"}, 0x83a489c8ec798360},
		{[]string{"ab"}, 0xb43c19b545c52d76},
	} {
		t.Run(strings.Join(c.names, " "), func(t *testing.T) {
			if got := Of(c.names...); got != c.want {
				t.Errorf("%#x, expected %#x", got, c.want)
			}
		})
	}
}

// Names that differ in their last digit differ in about half of the bits, also in the high ones, which decide a comparison.
func TestOf_SimilarNames_DifferInHighBits(t *testing.T) {
	first := map[bool]int{}
	const names = 1000
	for i := range names {
		a, b := Of("10.0.0.1", "node"+strconv.Itoa(i)), Of("10.0.0.1", "node"+strconv.Itoa(i+1))
		first[a > b]++
		if n := bits.OnesCount64(a ^ b); n < 10 {
			t.Errorf("node%d: %d bits differ", i, n)
		}
	}
	if n := first[true]; n < names*4/10 || n > names*6/10 {
		t.Errorf("the first of two names has the larger hash %d times of %d, expected about half", n, names)
	}
}
