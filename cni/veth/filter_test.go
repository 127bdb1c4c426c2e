package veth

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
)

// mayPass implements the filter's rules in plain Go.
func mayPass(f []byte, addrs []netip.Addr) bool {
	if len(f) < 14 {
		return false
	}
	for _, a := range addrs {
		typ, b := binary.BigEndian.Uint16(f[12:]), f[14:]
		switch {
		case a.Is4() && typ == 0x0800 && len(b) >= 20 && netip.AddrFrom4([4]byte(b[12:16])) == a:
			return true
		case a.Is4() && typ == 0x0806 && len(b) >= 28 && string(b[:6]) == "\x00\x01\x08\x00\x06\x04" &&
			netip.AddrFrom4([4]byte(b[14:18])) == a:
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
	t.Helper()
	code, ok := bpf.Disassemble(assembled(t, addrs))
	if !ok {
		t.Fatal("an instruction cannot be disassembled")
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// FuzzFilter compares the program's verdict with the rules in plain Go. The kernel never passes it a frame that is shorter
// than an Ethernet header.
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

// fillIn writes what a fuzzer hardly finds: the Pod's own addresses, or a valid neighbour solicitation.
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

func assembled(t testing.TB, addrs []netip.Addr) []bpf.RawInstruction {
	t.Helper()
	prog, err := spoofFilter(addrs)
	if err != nil {
		t.Fatal(err)
	}
	return prog
}

// The expected programs are those of Pods that were attached by earlier versions: CHECK compares byte by byte, so a change
// of the program makes it fail for every running Pod.
func TestSpoofFilter_EachFamily_HasStableBytes(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes below are little-endian")
	}
	own4, own6 := netip.MustParseAddr("10.42.7.3"), netip.MustParseAddr("fd42:0:0:7::3")
	for _, c := range []struct {
		name  string
		addrs []netip.Addr
		want  string
	}{
		{"IPv4", []netip.Addr{own4}, "280000000c00000015000200000800001500050006080000060000000200000080000000000000003500000b22000000" +
			"200000001a0000001500080903072a0a8000000000000000350000072a000000200000000e0000001500000500080100" +
			"28000000120000001500000304060000200000001c0000001500000103072a0a06000000ffffffff0600000002000000"},
		{"IPv6", []netip.Addr{own6}, "280000000c00000015000100dd8600000600000002000000800000000000000035000021360000002000000016000000" +
			"15000007000042fd200000001a0000001500000507000000200000001e00000015000003000000002000000022000000" +
			"150000010300000015001717000000008000000000000000350000164e0000002000000016000000540000000000c0ff" +
			"15000013000080fe3000000014000000150000113a00000030000000150000001500000fff0000003000000036000000" +
			"1500000d8700000028000000260000001500010080fe00001500000a02ff0000200000003e00000015000008000080fe" +
			"2000000042000000150000060000000020000000460000001500000400000000200000004a0000001500000201000000" +
			"150000000000000006000000ffffffff0600000002000000"},
		{"dual-stack", []netip.Addr{own4, own6},
			"280000000c0000001500030000080000150006000608000015000d00dd86000006000000020000008000000000000000" +
				"3500002d22000000200000001a00000015002a2b03072a0a8000000000000000350000292a000000200000000e000000" +
				"150000270008010028000000120000001500002504060000200000001c0000001500222303072a0a8000000000000000" +
				"3500002136000000200000001600000015000007000042fd200000001a0000001500000507000000200000001e000000" +
				"15000003000000002000000022000000150000010300000015001717000000008000000000000000350000164e000000" +
				"2000000016000000540000000000c0ff15000013000080fe3000000014000000150000113a0000003000000015000000" +
				"1500000fff00000030000000360000001500000d8700000028000000260000001500010080fe00001500000a02ff0000" +
				"200000003e00000015000008000080fe2000000042000000150000060000000020000000460000001500000400000000" +
				"200000004a0000001500000201000000150000000000000006000000ffffffff0600000002000000"},
		{"dual-stack, IPv6 first", []netip.Addr{own6, own4},
			"280000000c00000015000300dd8600001500240000080000150027000608000006000000020000008000000000000000" +
				"3500002d36000000200000001600000015000007000042fd200000001a0000001500000507000000200000001e000000" +
				"15000003000000002000000022000000150000010300000015002323000000008000000000000000350000224e000000" +
				"2000000016000000540000000000c0ff1500001f000080fe30000000140000001500001d3a0000003000000015000000" +
				"1500001bff0000003000000036000000150000198700000028000000260000001500010080fe00001500001602ff0000" +
				"200000003e00000015000014000080fe2000000042000000150000120000000020000000460000001500001000000000" +
				"200000004a0000001500000e0100000015000c0c0000000080000000000000003500000b22000000200000001a000000" +
				"1500080903072a0a8000000000000000350000072a000000200000000e00000015000005000801002800000012000000" +
				"1500000304060000200000001c0000001500000103072a0a06000000ffffffff0600000002000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fmt.Sprintf("%x", filterBytes(assembled(t, c.addrs))); got != c.want {
				t.Errorf("program %s\nexpected %s", got, c.want)
			}
		})
	}
}

func TestAssemble_UnknownLabel_IsAnError(t *testing.T) {
	p := program{jumps: map[int]jump{}, labels: map[string]int{}}
	p.equal(1, "nowhere", "")
	if prog, err := p.assemble(); err == nil {
		t.Errorf("assembled %v", prog)
	}
}

func TestAlias_RoundTrip_KeepsAttachmentAndPod(t *testing.T) {
	at, pod, ok := ParseAlias("warren abc/eth0 shop/web-0")
	if !ok || at.ContainerID != "abc" || at.IfName != "eth0" || pod != "shop/web-0" || Alias(at, pod) != "warren abc/eth0 shop/web-0" {
		t.Error(at, pod, ok)
	}
}

func TestParseAlias_OtherText_IsRefused(t *testing.T) {
	for _, s := range []string{"", "warren", "warren x", "warren /eth0", "warren x/", "other x/eth0"} {
		t.Run(s, func(t *testing.T) {
			if at, _, ok := ParseAlias(s); ok {
				t.Errorf("%q was parsed as %v", s, at)
			}
		})
	}
}
