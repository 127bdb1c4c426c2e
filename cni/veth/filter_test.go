package veth

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
)

// mayPass says the filter's rules in plain Go.
func mayPass(f []byte, addrs []netip.Addr) bool {
	if len(f) < 14 {
		return false
	}
	for _, a := range addrs {
		typ, b := binary.BigEndian.Uint16(f[12:]), f[14:]
		switch {
		case a.Is4() && typ == 0x0800 && len(b) >= 20 && netip.AddrFrom4([4]byte(b[12:16])) == a:
			return true
		case a.Is4() && typ == 0x0806 && len(b) >= 28 && string(b[:6]) == "\x00\x01\x08\x00\x06\x04" && netip.AddrFrom4([4]byte(b[14:18])) == a:
			return true
		case a.Is6() && typ == 0x86dd && len(b) >= 40:
			src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
			if src == a {
				return true
			}
			link := netip.MustParsePrefix("fe80::/16").Contains(dst) || netip.MustParsePrefix("ff02::/16").Contains(dst)
			return netip.MustParsePrefix("fe80::/10").Contains(src) && link && b[6] == 58 && b[7] == 255 &&
				len(b) >= 64 && b[40] == 135 && netip.AddrFrom16([16]byte(b[48:64])) == Gateway6
		}
	}
	return false
}

func machine(t testing.TB, addrs []netip.Addr) *bpf.VM {
	var raw []bpf.RawInstruction
	for _, f := range spoofFilter(addrs) {
		raw = append(raw, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K})
	}
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("an instruction cannot be disassembled")
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// FuzzFilter runs the program beside the plain rules. A frame shorter than its Ethernet header cannot reach it.
func FuzzFilter(f *testing.F) {
	own4, own6 := netip.MustParseAddr("10.42.7.3"), netip.MustParseAddr("fd42::3")
	base := make([]byte, 80)
	for _, typ := range []uint16{0x0800, 0x0806, 0x86dd, 0x8100} {
		binary.BigEndian.PutUint16(base[12:], typ)
		for which := range uint8(4) {
			f.Add(append([]byte(nil), base...), which, uint8(0))
			f.Add(append([]byte(nil), base...), which, uint8(1))
			f.Add(append([]byte(nil), base...), which, uint8(2))
		}
	}
	sets := [][]netip.Addr{{own4}, {own6}, {own4, own6}, {own6, own4}}
	var vms []*bpf.VM
	for _, s := range sets {
		vms = append(vms, machine(f, s))
	}
	f.Fuzz(func(t *testing.T, frame []byte, which, fill uint8) {
		if len(frame) < 14 {
			return
		}
		fillIn(frame, fill, own4, own6)
		i := int(which) % len(sets)
		n, err := vms[i].Run(frame)
		if err != nil {
			t.Fatal(err)
		}
		want := uint32(dropped)
		if mayPass(frame, sets[i]) {
			want = passed
		}
		if uint32(n) != want {
			t.Errorf("verdict %#x, want %#x for %v and frame %x", n, want, sets[i], frame)
		}
	})
}

// fillIn writes what a fuzzer hardly guesses: the Pod's own addresses, or a good solicitation.
func fillIn(frame []byte, fill uint8, own4, own6 netip.Addr) {
	switch {
	case fill%3 == 1 && len(frame) >= 38:
		copy(frame[26:], own4.AsSlice())
		if fill%2 == 0 {
			copy(frame[14:], "\x00\x01\x08\x00\x06\x04")
			copy(frame[28:], own4.AsSlice())
		}
		if fill%5 == 0 {
			copy(frame[22:], own6.AsSlice())
		}
	case fill%3 == 2 && len(frame) >= 78:
		frame[20], frame[21], frame[54] = 58, 255, 135
		frame[22], frame[23], frame[38], frame[39] = 0xfe, 0x80, 0xff, 0x02
		copy(frame[62:], Gateway6.AsSlice())
	}
}

func TestProgramIsShort(t *testing.T) {
	for _, a := range [][]netip.Addr{{netip.MustParseAddr("10.42.7.3")}, {netip.MustParseAddr("10.42.7.3"), netip.MustParseAddr("fd42::3")}} {
		if n := len(spoofFilter(a)); n > 64 {
			t.Errorf("%d instructions for %v", n, a)
		}
	}
}

func TestAliasRoundTrip(t *testing.T) {
	for _, s := range []string{"", "warren", "warren x", "warren /eth0", "warren x/", "other x/eth0"} {
		if at, _, ok := ParseAlias(s); ok {
			t.Errorf("%q was read as %v", s, at)
		}
	}
	at, pod, ok := ParseAlias("warren abc/eth0 shop/web-0")
	if !ok || at.ContainerID != "abc" || at.IfName != "eth0" || pod != "shop/web-0" || Alias(at, pod) != "warren abc/eth0 shop/web-0" {
		t.Error(at, pod, ok)
	}
}
