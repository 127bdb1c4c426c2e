package veth

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The filter is classic BPF, run by cls_bpf with direct action on the ingress of the host's end: it sees every frame
// that the Pod sends, from the Ethernet header on. A frame that passes gets the verdict "unspecified" instead of "ok", so
// that later filters of the operator still run. A load beyond the end of the frame would end a classic program with 0,
// which is "ok". So every branch checks the length of the frame first.
//
// Classic BPF needs no bpf(2) call, which a container of the agent may not make. The filter is what stops address
// spoofing: reverse path filtering is loose (setRPFilter).
const (
	passed  = 0xffffffff // TC_ACT_UNSPEC
	dropped = 2          // TC_ACT_SHOT
)

// Offsets in the frame. No option or extension header can stand before any of these fields.
const (
	offType      = 12
	offARPTypes  = 14 // hardware and protocol type
	offARPSizes  = 18 // length of hardware and protocol addresses
	offARPSender = 28
	end4         = 34 // of the IPv4 header without options
	endARP       = 42
	off4Source   = 26
	off6Next     = 20
	off6Hops     = 21
	off6Source   = 22
	off6Dest     = 38
	end6         = 54 // of the IPv6 header
	offND        = 54 // ICMPv6 type
	offNDTarget  = 62
	endND        = 78
)

// spoofFilter assembles the program that drops every frame with a source address that is not the Pod's:
//
//	IPv4: passes when the source address is the Pod's.
//	ARP:  passes when the sender address is the Pod's.
//	IPv6: passes when the source address is the Pod's, or when it is link-local and the packet is a neighbour
//	      solicitation for the gateway.
//
// All other frames are dropped, also those of a family in which the Pod has no address.
//
// CHECK compares the program with the one in the kernel byte by byte. A change of the program makes CHECK fail for the
// Pods that were attached before it.
func spoofFilter(addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	p := program{jumps: map[int]jump{}, labels: map[string]int{}}
	p.load(offType, 2)
	for _, a := range addrs {
		if a.Is4() {
			p.equal(unix.ETH_P_IP, "ip4", "")
			p.equal(unix.ETH_P_ARP, "arp", "")
		} else {
			p.equal(unix.ETH_P_IPV6, "ip6", "")
		}
	}
	p.add(bpf.RetConstant{Val: dropped})
	for _, a := range addrs {
		if a.Is4() {
			p.checkIPv4(a)
		} else {
			p.checkIPv6(a)
		}
	}
	p.label("pass")
	p.add(bpf.RetConstant{Val: passed})
	p.label("drop")
	p.add(bpf.RetConstant{Val: dropped})
	return p.assemble()
}

func (p *program) checkIPv4(a netip.Addr) {
	own := binary.BigEndian.Uint32(a.AsSlice())
	p.label("ip4")
	p.dropShorter(end4)
	p.load(off4Source, 4)
	p.equal(own, "pass", "drop")

	p.label("arp")
	p.dropShorter(endARP)
	p.load(offARPTypes, 4)
	p.equal(1<<16|unix.ETH_P_IP, "", "drop") // Ethernet and IPv4: with others the sender is at another offset
	p.load(offARPSizes, 2)
	p.equal(6<<8|4, "", "drop")
	p.load(offARPSender, 4)
	p.equal(own, "pass", "drop")
}

func (p *program) checkIPv6(a netip.Addr) {
	p.label("ip6")
	p.dropShorter(end6)
	p.equalAddress(off6Source, a, "nd")
	p.jump("pass")

	p.label("nd")
	p.dropShorter(endND)
	p.load(off6Source, 4)
	p.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xffc00000})
	p.equal(0xfe800000, "", "drop")
	p.load(off6Next, 1)
	p.equal(unix.IPPROTO_ICMPV6, "", "drop")
	p.load(off6Hops, 1)
	p.equal(255, "", "drop") // RFC 4861, section 7.1.1: the packet was not forwarded
	p.load(offND, 1)
	p.equal(135, "", "drop") // neighbour solicitation
	p.load(off6Dest, 2)
	p.equal(0xfe80, "target", "")
	p.equal(0xff02, "target", "drop")
	p.label("target")
	p.equalAddress(offNDTarget, Gateway6, "drop")
	p.jump("pass")
}

// program is a list of instructions whose jumps name labels.
type program struct {
	code   []bpf.Instruction
	jumps  map[int]jump   // by the index of a bpf.JumpIf
	labels map[string]int // index of the instruction that a label names
}

// jump holds the labels where a comparison continues; "" is the next instruction.
type jump struct{ yes, no string }

func (p *program) add(i bpf.Instruction) { p.code = append(p.code, i) }

func (p *program) label(name string) { p.labels[name] = len(p.code) }

func (p *program) load(off uint32, size int) { p.add(bpf.LoadAbsolute{Off: off, Size: size}) }

func (p *program) compare(test bpf.JumpTest, value uint32, yes, no string) {
	p.jumps[len(p.code)] = jump{yes, no}
	p.add(bpf.JumpIf{Cond: test, Val: value})
}

func (p *program) equal(value uint32, yes, no string) { p.compare(bpf.JumpEqual, value, yes, no) }

// jump continues at a label in any case. It is a comparison with the same label for both results.
func (p *program) jump(to string) { p.equal(0, to, to) }

// dropShorter drops frames that end before offset end.
func (p *program) dropShorter(end uint32) {
	p.add(bpf.LoadExtension{Num: bpf.ExtLen})
	p.compare(bpf.JumpGreaterOrEqual, end, "", "drop")
}

// equalAddress continues at the next instruction when the address at offset off is a, else at miss.
func (p *program) equalAddress(off uint32, a netip.Addr, miss string) {
	b := a.As16()
	for i := uint32(0); i < 16; i += 4 {
		p.load(off+i, 4)
		p.equal(binary.BigEndian.Uint32(b[i:]), "", miss)
	}
}

// assemble replaces the labels by distances. A jump goes forward, by at most 255 instructions.
func (p *program) assemble() ([]bpf.RawInstruction, error) {
	skip := func(from int, label string) (uint8, error) {
		if label == "" {
			return 0, nil
		}
		to, ok := p.labels[label]
		if n := to - from - 1; ok && n >= 0 && n <= 255 {
			return uint8(n), nil
		}
		return 0, fmt.Errorf("assemble filter: instruction %d: label %q is unknown or too far", from, label)
	}
	for i, j := range p.jumps {
		yes, err := skip(i, j.yes)
		if err != nil {
			return nil, err
		}
		no, err := skip(i, j.no)
		if err != nil {
			return nil, err
		}
		in := p.code[i].(bpf.JumpIf)
		in.SkipTrue, in.SkipFalse = yes, no
		p.code[i] = in
	}
	return bpf.Assemble(p.code)
}

// filterBytes encodes the program as TCA_BPF_OPS: an array of struct sock_filter.
func filterBytes(prog []bpf.RawInstruction) []byte {
	b := make([]byte, 0, 8*len(prog))
	for _, f := range prog {
		b = binary.NativeEndian.AppendUint16(b, f.Op)
		b = append(b, f.Jt, f.Jf)
		b = binary.NativeEndian.AppendUint32(b, f.K)
	}
	return b
}
