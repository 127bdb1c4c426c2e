package zone

import (
	"net/netip"
	"strings"
	"testing"
)

func FuzzParseDashed(f *testing.F) {
	for _, s := range []string{"10-42-0-7", "fd42--7", "--", "--1", "1--", "fd42-1-2-3-4-5-6-7", "1-2-3-4-5-6-7", "-1--2", "00001--"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) == 0 || len(s) > 63 || strings.ContainsAny(s, ".:%ABCDEF") {
			return
		}
		want, err := netip.ParseAddr(strings.ReplaceAll(s, "-", "."))
		if err != nil {
			want, err = netip.ParseAddr(strings.ReplaceAll(s, "-", ":"))
		}
		got, ok := parseDashed([]byte(s))
		if ok != (err == nil) || ok && got != want {
			t.Fatalf("%q: %v %v, netip returns %v %v", s, got, ok, want, err)
		}
	})
}
