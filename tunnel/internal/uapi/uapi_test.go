package uapi

import (
	"bufio"
	"io"
	"strings"
	"testing"
)

func FuzzParseSet(f *testing.F) {
	f.Add("listen_port=5\npublic_key=" + strings.Repeat("ab", 32) + "\nallowed_ip=-10.0.0.0/8\nendpoint=[::1]:5\nremove=true\n\n")
	f.Add("private_key=" + strings.Repeat("00", 32) + "\nreplace_peers=true\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		_, err := ParseSet(bufio.NewReader(io.LimitReader(strings.NewReader(s), maxRequest)))
		errnoOf(err)
	})
}

func FuzzParseState(f *testing.F) {
	f.Add("private_key=00\npublic_key=" + strings.Repeat("01", 32) + "\nendpoint=1.2.3.4:5\nallowed_ip=10.0.0.0/8\n")
	f.Fuzz(func(t *testing.T, s string) { ParseState(s) })
}
