package offload

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/warrennet/warren/internal/model"
)

// The program is written in Go so that the build needs no C compiler
// (docs/decisions/0010-ebpf-offload-of-same-node-flows.md). program.md has the same program as C, to read first;
// TestProgram_Listing_SameControlFlow compares both.
//
// For each packet that a Pod sends:
//
//	read      Ethernet, IPv4 without options or IPv6 without extension headers, TCP or UDP; no fragments
//	transport TCP flags and acknowledgement; a SYN without ACK passes on
//	lookup    interface, protocol, addresses and ports in the map; the flow's State must be armed with the entry's ID
//	count     packets, bytes, TCP flags and acknowledgements, for the load balancer
//	header    new Ethernet and IP header and ports, with the TTL or hop limit decremented, on the stack
//	checksum  the transport checksum in the packet
//	send      copy the new headers into the packet, redirect it into the other Pod
//
// Every other packet passes on unchanged to the next program at the interface and then to the host's routing.

// Return values (linux/bpf.h).
const (
	next       = -1 // TCX_NEXT: the next program decides
	dropped    = 2  // TC_ACT_SHOT
	redirected = 7  // TC_ACT_REDIRECT
)

// Offsets in struct __sk_buff (linux/bpf.h).
const (
	skbLen     = 0
	skbPktType = 4
	skbVLAN    = 20
	skbIfindex = 40
	skbData    = 76
	skbDataEnd = 80
)

// Offsets in the frame. IP headers have their fixed length only.
const (
	etherType = 12
	ip        = 14
	l4v4      = ip + 20
	l4v6      = ip + 40
)

// Constants for fields in network byte order, as a little-endian machine loads them. warren is built for little-endian
// machines only (amd64, arm64, riscv64).
const (
	typeIPv4  = 0x0008
	typeIPv6  = 0xdd86
	fragment4 = 0xff3f // more fragments, or an offset
)

const (
	flagFIN, flagSYN, flagRST, flagACK = 0x01, 0x02, 0x04, 0x10
	trackedFlags                       = flagFIN | flagSYN | flagRST | flagACK
)

// Flags of bpf_l4_csum_replace.
const (
	pseudoHeader = 0x10 // BPF_F_PSEUDO_HDR: the pseudo-header changes
	mangled0     = 0x20 // BPF_F_MARK_MANGLED_0, for UDP: a checksum of zero stays zero, and none becomes zero
)

// Offsets on the stack, from the frame pointer. The Ethernet header begins two bytes after a multiple of eight, so that
// the IP header is aligned.
const (
	stKey   = -48
	stIndex = -56
	stFlags = -64
	stAck   = -72
	stProto = -80
	stEther = -158
	stIP    = stEther + 14
)

// Registers that calls preserve.
const (
	ctx   = asm.R6
	data  = asm.R7
	end   = asm.R8
	entry = asm.R9
	fp    = asm.RFP
)

// Offsets in value and State.
var (
	vDst     = int16(unsafe.Offsetof(value{}.dst))
	vPorts   = int16(unsafe.Offsetof(value{}.ports))
	vLink    = int16(unsafe.Offsetof(value{}.link))
	vIndex   = int16(unsafe.Offsetof(value{}.index))
	vID      = int16(unsafe.Offsetof(value{}.id))
	vDir     = int16(unsafe.Offsetof(value{}.dir))
	vIPSum   = int16(unsafe.Offsetof(value{}.ipSum))
	vAddrSum = int16(unsafe.Offsetof(value{}.addrSum))
	vPortSum = int16(unsafe.Offsetof(value{}.portSum))
	vEther   = int16(unsafe.Offsetof(value{}.ether)) + 2

	kDst   = stKey + int16(unsafe.Offsetof(key{}.dst))
	kPorts = stKey + int16(unsafe.Offsetof(key{}.ports))
	kLink  = stKey + int16(unsafe.Offsetof(key{}.link))
	kProto = stKey + int16(unsafe.Offsetof(key{}.proto))

	sPackets = int16(unsafe.Offsetof(State{}.Packets))
	sBytes   = int16(unsafe.Offsetof(State{}.Bytes))
	sAcks    = int16(unsafe.Offsetof(State{}.Acks))
	sFlags   = int16(unsafe.Offsetof(State{}.Flags))
)

func instructions(table, states int) asm.Instructions {
	out := asm.Instructions{
		asm.Mov.Reg(ctx, asm.R1),
		asm.LoadMem(data, ctx, skbData, asm.Word),
		asm.LoadMem(end, ctx, skbDataEnd, asm.Word),
		asm.LoadMem(asm.R0, ctx, skbPktType, asm.Word),
		asm.JNE.Imm(asm.R0, unix.PACKET_HOST, "pass"),
		asm.LoadMem(asm.R0, ctx, skbVLAN, asm.Word),
		asm.JNE.Imm(asm.R0, 0, "pass"),
	}
	out = append(out, atLeast(l4v4+8)...)
	out = append(out, asm.Mov.Imm(asm.R0, 0))
	for at := int16(stAck); at < 0; at += 8 {
		out = append(out, asm.StoreMem(fp, at, asm.R0, asm.DWord))
	}
	out = append(out,
		asm.LoadMem(asm.R0, ctx, skbIfindex, asm.Word),
		asm.StoreMem(fp, kLink, asm.R0, asm.Word),
		asm.LoadMem(asm.R3, data, etherType, asm.Half),
		asm.JEq.Imm(asm.R3, typeIPv4, "ipv4"),
		asm.JEq.Imm(asm.R3, typeIPv6, "ipv6"),
		asm.Ja.Label("pass"),
	)
	for _, f := range []generator{{model.IPv4, l4v4, table, states}, {model.IPv6, l4v6, table, states}} {
		out = append(out, f.read()...)
		out = append(out, f.forward()...)
	}
	return append(out,
		asm.Mov.Imm(asm.R0, next).WithSymbol("pass"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, dropped).WithSymbol("broken"), // the packet is half rewritten
		asm.Return(),
	)
}

// atLeast passes on packets with fewer than n bytes in the linear data.
func atLeast(n int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R2, data),
		asm.Add.Imm(asm.R2, n),
		asm.JGT.Reg(asm.R2, end, "pass"),
	}
}

// move copies consecutive memory through R1, in steps of the given sizes.
func move(to asm.Register, toOff int16, from asm.Register, fromOff int16, sizes ...asm.Size) (out asm.Instructions) {
	for _, s := range sizes {
		out = append(out, asm.LoadMem(asm.R1, from, fromOff, s), asm.StoreMem(to, toOff, asm.R1, s))
		toOff, fromOff = toOff+int16(s.Sizeof()), fromOff+int16(s.Sizeof())
	}
	return out
}

// generator makes the part of the program for one address family.
type generator struct {
	family        model.Family
	l4            int16 // offset of the transport header
	table, states int   // file descriptors of the maps
}

// label makes a label unique per family.
func (f generator) label(s string) string { return s + f.family.String() }

// read fills the key, or passes the packet on. Afterwards R4 is the protocol.
func (f generator) read() asm.Instructions {
	if f.family == model.IPv4 {
		out := asm.Instructions{
			asm.LoadMem(asm.R3, data, ip, asm.Byte).WithSymbol("ipv4"),
			asm.JNE.Imm(asm.R3, 0x45, "pass"),
			asm.LoadMem(asm.R3, data, ip+6, asm.Half),
			asm.And.Imm(asm.R3, fragment4),
			asm.JNE.Imm(asm.R3, 0, "pass"),
			asm.LoadMem(asm.R3, data, ip+8, asm.Byte),
			asm.JLT.Imm(asm.R3, 2, "pass"), // the host answers with ICMP time exceeded
			asm.LoadMem(asm.R4, data, ip+9, asm.Byte),
			asm.StoreImm(fp, stKey+10, 0xffff, asm.Half),
			asm.StoreImm(fp, kDst+10, 0xffff, asm.Half),
		}
		out = append(out, move(fp, stKey+12, data, ip+12, asm.Word)...)
		out = append(out, move(fp, kDst+12, data, ip+16, asm.Word)...)
		return append(out, move(fp, kPorts, data, f.l4, asm.Word)...)
	}
	out := asm.Instructions{
		asm.Mov.Reg(asm.R2, data).WithSymbol("ipv6"),
		asm.Add.Imm(asm.R2, l4v6+8),
		asm.JGT.Reg(asm.R2, end, "pass"),
		asm.LoadMem(asm.R3, data, ip+7, asm.Byte),
		asm.JLT.Imm(asm.R3, 2, "pass"),
		asm.LoadMem(asm.R4, data, ip+6, asm.Byte),
	}
	out = append(out, move(fp, stKey, data, ip+8, asm.DWord, asm.DWord, asm.DWord, asm.DWord)...)
	return append(out, move(fp, kPorts, data, f.l4, asm.Word)...)
}

// forward is the part after the IP header was read.
func (f generator) forward() (out asm.Instructions) {
	for _, part := range []asm.Instructions{f.transport(), f.lookup(), f.count(), f.header(), f.checksum(), f.send()} {
		out = append(out, part...)
	}
	return out
}

// transport stores the flags and the acknowledgement of a TCP segment. A segment that opens a connection passes on.
func (f generator) transport() asm.Instructions {
	out := asm.Instructions{
		asm.StoreMem(fp, kProto, asm.R4, asm.Byte),
		asm.StoreMem(fp, stProto, asm.R4, asm.DWord),
		asm.JEq.Imm(asm.R4, unix.IPPROTO_UDP, f.label("lookup")),
		asm.JNE.Imm(asm.R4, unix.IPPROTO_TCP, "pass"),
	}
	out = append(out, atLeast(int32(f.l4)+20)...)
	return append(out,
		asm.LoadMem(asm.R5, data, f.l4+13, asm.Byte),
		asm.Mov.Reg(asm.R3, asm.R5),
		asm.And.Imm(asm.R3, flagSYN|flagACK),
		asm.JEq.Imm(asm.R3, flagSYN, "pass"),
		asm.And.Imm(asm.R5, trackedFlags),
		asm.StoreMem(fp, stFlags, asm.R5, asm.DWord),
		asm.LoadMem(asm.R3, data, f.l4+8, asm.Word),
		asm.HostTo(asm.BE, asm.R3, asm.Word),
		asm.StoreMem(fp, stAck, asm.R3, asm.DWord),
	)
}

// lookup finds the entry and its armed State. Afterwards R0 is the State.
func (f generator) lookup() asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, f.table).WithSymbol(f.label("lookup")),
		asm.Mov.Reg(asm.R2, fp),
		asm.Add.Imm(asm.R2, stKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(entry, asm.R0),
		asm.LoadMem(asm.R3, entry, vIndex, asm.Word),
		asm.StoreMem(fp, stIndex, asm.R3, asm.Word),
		asm.LoadMapPtr(asm.R1, f.states),
		asm.Mov.Reg(asm.R2, fp),
		asm.Add.Imm(asm.R2, stIndex),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.LoadMem(asm.R2, entry, vID, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "pass"),
	}
}

// count updates the State at R0. Several CPUs may do so at once, hence the atomic additions. Flags that are set already
// are not written again, so that the cache line stays shared.
func (f generator) count() asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R2, entry, vDir, asm.Word),
		asm.And.Imm(asm.R2, 1),
		asm.LSh.Imm(asm.R2, 2),
		asm.Mov.Reg(asm.R4, asm.R0),
		asm.Add.Reg(asm.R4, asm.R2), // R4: the direction's 32-bit fields
		asm.LSh.Imm(asm.R2, 1),
		asm.Mov.Reg(asm.R3, asm.R0),
		asm.Add.Reg(asm.R3, asm.R2), // R3: the direction's 64-bit fields
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R3, asm.R1, asm.DWord, sPackets),
		asm.LoadMem(asm.R1, ctx, skbLen, asm.Word),
		asm.Sub.Imm(asm.R1, ip),
		asm.AddAtomic.Mem(asm.R3, asm.R1, asm.DWord, sBytes),
		asm.LoadMem(asm.R5, fp, stFlags, asm.DWord),
		asm.JEq.Imm(asm.R5, 0, f.label("counted")),
		asm.LoadMem(asm.R1, asm.R4, sFlags, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.And.Reg(asm.R2, asm.R5),
		asm.JEq.Reg(asm.R2, asm.R5, f.label("flagged")),
		orAtomic(asm.R4, asm.R5, sFlags),
		asm.And.Imm(asm.R5, flagACK).WithSymbol(f.label("flagged")),
		asm.JEq.Imm(asm.R5, 0, f.label("counted")),
		asm.LoadMem(asm.R1, fp, stAck, asm.DWord),
		asm.StoreMem(asm.R4, sAcks, asm.R1, asm.Word),
	}
}

// orAtomic is an atomic OR to memory. It works around a fault of cilium/ebpf v0.22.0: AtomicOp.Mem leaves Constant at
// zero, but the instruction is encoded with the operation that Constant holds, and zero is an addition. Setting Constant
// to the operation gives the right instruction. The function can be replaced by asm.OrAtomic.Mem(to, from, asm.Word, off)
// as soon as TestOrAtomic_Library_StillEncodesAddition fails, that is, when the library encodes 0x40 (BPF_OR) by itself.
func orAtomic(to, from asm.Register, off int16) asm.Instruction {
	i := asm.OrAtomic.Mem(to, from, asm.Word, off)
	i.Constant = int64(asm.OrAtomic >> 8)
	return i
}

// header writes the new Ethernet header, IP header and ports to the stack.
func (f generator) header() asm.Instructions {
	out := move(fp, stEther, entry, vEther, asm.Half, asm.Word, asm.DWord)
	out[0] = out[0].WithSymbol(f.label("counted"))
	if f.family == model.IPv6 {
		out = append(out, move(fp, stIP, data, ip, asm.Word, asm.Half, asm.Byte)...)
		out = append(out,
			asm.LoadMem(asm.R1, data, ip+7, asm.Byte),
			asm.Sub.Imm(asm.R1, 1),
			asm.StoreMem(fp, stIP+7, asm.R1, asm.Byte))
		out = append(out, move(fp, stIP+8, entry, 0, asm.DWord, asm.DWord, asm.DWord, asm.DWord)...)
		return append(out, move(fp, stIP+40, entry, vPorts, asm.Word)...)
	}
	out = append(out, move(fp, stIP, data, ip, asm.Word, asm.Word)...)
	out = append(out,
		asm.LoadMem(asm.R1, data, ip+8, asm.Byte),
		asm.Sub.Imm(asm.R1, 1),
		asm.StoreMem(fp, stIP+8, asm.R1, asm.Byte))
	out = append(out, move(fp, stIP+9, data, ip+9, asm.Byte)...)
	out = append(out,
		asm.LoadMem(asm.R1, data, ip+10, asm.Half),
		asm.Xor.Imm(asm.R1, 0xffff),
		asm.LoadMem(asm.R2, entry, vIPSum, asm.Word),
		asm.Add.Reg(asm.R1, asm.R2))
	for range 2 {
		out = append(out,
			asm.Mov.Reg(asm.R2, asm.R1),
			asm.RSh.Imm(asm.R2, 16),
			asm.And.Imm(asm.R1, 0xffff),
			asm.Add.Reg(asm.R1, asm.R2))
	}
	out = append(out, asm.Xor.Imm(asm.R1, 0xffff), asm.StoreMem(fp, stIP+10, asm.R1, asm.Half))
	out = append(out, move(fp, stIP+12, entry, 12, asm.Word)...)
	out = append(out, move(fp, stIP+16, entry, vDst+12, asm.Word)...)
	return append(out, move(fp, stIP+20, entry, vPorts, asm.Word)...)
}

// checksum updates the transport checksum in the packet: first for the addresses, then for the ports. They are separate
// because a partial checksum (CHECKSUM_PARTIAL) covers the pseudo-header, and so the addresses, but not the ports.
func (f generator) checksum() asm.Instructions {
	replace := func(off int16, diff int16, flags int32, fail string) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, ctx),
			asm.Mov.Imm(asm.R2, int32(f.l4+off)),
			asm.Mov.Imm(asm.R3, 0),
			asm.LoadMem(asm.R4, entry, diff, asm.Word),
			asm.Mov.Imm(asm.R5, flags),
			asm.FnL4CsumReplace.Call(),
			asm.JNE.Imm(asm.R0, 0, fail),
		}
	}
	unlessPortsDiffer := func(label string) asm.Instructions {
		return asm.Instructions{asm.LoadMem(asm.R4, entry, vPortSum, asm.Word), asm.JEq.Imm(asm.R4, 0, label)}
	}
	done, udp := f.label("summed"), f.label("udp")
	out := asm.Instructions{
		asm.LoadMem(asm.R1, fp, stProto, asm.DWord),
		asm.JEq.Imm(asm.R1, unix.IPPROTO_UDP, udp),
	}
	out = append(out, replace(16, vAddrSum, pseudoHeader, "pass")...)
	out = append(out, unlessPortsDiffer(done)...)
	out = append(out, replace(16, vPortSum, 0, "broken")...)
	out = append(out, asm.Ja.Label(done))
	u := replace(6, vAddrSum, pseudoHeader|mangled0, "pass")
	u[0] = u[0].WithSymbol(udp)
	out = append(out, u...)
	out = append(out, unlessPortsDiffer(done)...)
	return append(out, replace(6, vPortSum, mangled0, "broken")...)
}

// send copies the new headers into the packet and redirects it into the other Pod.
func (f generator) send() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, ctx).WithSymbol(f.label("summed")),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, fp),
		asm.Add.Imm(asm.R3, stEther),
		asm.Mov.Imm(asm.R4, int32(f.l4)+4),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "broken"),
		asm.LoadMem(asm.R1, entry, vLink, asm.Word),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirectPeer.Call(),
		asm.Return(),
	}
}
