package veth

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The filter is classic BPF, run by cls_bpf with direct action on the ingress of the host's end (what the Pod sends).
// It sees the frame from its Ethernet header on. What passes gets "unspecified", not "ok", so that a later filter of
// the operator still has its say. A load beyond the frame's end would end a classic program with 0, which is "ok":
// so every branch looks at the frame's length first.
const (
	passed  = 0xffffffff // TC_ACT_UNSPEC
	dropped = 2          // TC_ACT_SHOT
)

// Offsets in the frame. No option or extension header can stand before any of these fields.
const (
	offType      = 12
	offARPTypes  = 14 // hardware and protocol type
	offARPSizes  = 18 // their lengths
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

// spoofFilter builds the program that lets a Pod send as itself only:
//
//	IPv4: the source is the Pod's. ARP: so is the sender's address.
//	IPv6: the source is the Pod's, or it is link-local and the packet is a neighbour solicitation for the gateway.
//	Anything else: dropped, as is a whole family that the Pod has no address of.
func spoofFilter(addrs []netip.Addr) []unix.SockFilter {
	p := program{labels: map[string]int{}}
	p.load(unix.BPF_H, offType)
	for _, a := range addrs {
		if a.Is4() {
			p.equal(unix.ETH_P_IP, "ip4", "")
			p.equal(unix.ETH_P_ARP, "arp", "")
		} else {
			p.equal(unix.ETH_P_IPV6, "ip6", "")
		}
	}
	p.add(unix.BPF_RET|unix.BPF_K, dropped, "", "")
	for _, a := range addrs {
		if a.Is4() {
			p.only4(a)
		} else {
			p.only6(a)
		}
	}
	p.label("pass")
	p.add(unix.BPF_RET|unix.BPF_K, passed, "", "")
	p.label("drop")
	p.add(unix.BPF_RET|unix.BPF_K, dropped, "", "")
	return p.link()
}

func (p *program) only4(a netip.Addr) {
	own := binary.BigEndian.Uint32(a.AsSlice())
	p.label("ip4")
	p.long(end4)
	p.load(unix.BPF_W, off4Source)
	p.equal(own, "pass", "drop")

	p.label("arp")
	p.long(endARP)
	p.load(unix.BPF_W, offARPTypes)
	p.equal(1<<16|unix.ETH_P_IP, "", "drop") // Ethernet and IPv4: else the sender would stand elsewhere
	p.load(unix.BPF_H, offARPSizes)
	p.equal(6<<8|4, "", "drop")
	p.load(unix.BPF_W, offARPSender)
	p.equal(own, "pass", "drop")
}

func (p *program) only6(a netip.Addr) {
	p.label("ip6")
	p.long(end6)
	p.address(off6Source, a, "nd")
	p.jump("pass")

	p.label("nd")
	p.long(endND)
	p.load(unix.BPF_W, off6Source)
	p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0xffc00000, "", "")
	p.equal(0xfe800000, "", "drop")
	p.load(unix.BPF_B, off6Next)
	p.equal(unix.IPPROTO_ICMPV6, "", "drop")
	p.load(unix.BPF_B, off6Hops)
	p.equal(255, "", "drop") // RFC 4861: it has not been forwarded
	p.load(unix.BPF_B, offND)
	p.equal(135, "", "drop") // neighbour solicitation
	p.load(unix.BPF_H, off6Dest)
	p.equal(0xfe80, "target", "")
	p.equal(0xff02, "target", "drop")
	p.label("target")
	p.address(offNDTarget, Gateway6, "drop")
	p.jump("pass")
}

// program is a list of instructions whose branches name labels; "" is the next instruction.
type program struct {
	code   []insn
	labels map[string]int
}

type insn struct {
	op     uint16
	k      uint32
	jt, jf string
}

func (p *program) add(op uint16, k uint32, jt, jf string) {
	p.code = append(p.code, insn{op, k, jt, jf})
}
func (p *program) label(name string) { p.labels[name] = len(p.code) }

func (p *program) load(size uint16, off uint32) { p.add(unix.BPF_LD|size|unix.BPF_ABS, off, "", "") }

func (p *program) equal(k uint32, jt, jf string) {
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, jt, jf)
}

// jump always goes to a label: a comparison that cannot miss, both ways alike.
func (p *program) jump(to string) { p.equal(0, to, to) }

// long drops a frame that ends before offset end.
func (p *program) long(end uint32) {
	p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_LEN, 0, "", "")
	p.add(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, end, "", "drop")
}

// address goes on when the address at off is a, and to miss otherwise.
func (p *program) address(off uint32, a netip.Addr, miss string) {
	b := a.As16()
	for i := uint32(0); i < 16; i += 4 {
		p.load(unix.BPF_W, off+i)
		p.equal(binary.BigEndian.Uint32(b[i:]), "", miss)
	}
}

// link puts distances in the place of labels. All branches go forward and the program is short, so they fit.
func (p *program) link() []unix.SockFilter {
	out := make([]unix.SockFilter, len(p.code))
	for i, c := range p.code {
		to := func(label string) uint8 {
			if label == "" {
				return 0
			}
			return uint8(p.labels[label] - i - 1)
		}
		out[i] = unix.SockFilter{Code: c.op, K: c.k, Jt: to(c.jt), Jf: to(c.jf)}
	}
	return out
}

// filterBytes is the program as netlink carries it.
func filterBytes(prog []unix.SockFilter) []byte {
	b := make([]byte, 0, 8*len(prog))
	for _, f := range prog {
		b = binary.NativeEndian.AppendUint16(b, f.Code)
		b = append(b, f.Jt, f.Jf)
		b = binary.NativeEndian.AppendUint32(b, f.K)
	}
	return b
}
