package offload

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// The program, for each packet that a Pod sends:
//
//	read     Ethernet, IPv4 without options or IPv6 without extension headers, TCP or UDP; whole packets only
//	look up  interface, protocol, addresses and ports in the table; the flow's State must be armed with the entry's ID
//	count    packets, bytes, TCP flags and acknowledgements, for the load balancer to see
//	rewrite  checksum, Ethernet and IP header, ports; one hop less
//	redirect into the Pod at the other interface
//
// Whatever is not so passes on, unchanged, to what else runs at the interface and then to the host's routing.

// next is TC_ACT_UNSPEC, TCX_NEXT: the next program decides.
const (
	next       = -1
	dropped    = 2 // TC_ACT_SHOT
	redirected = 7 // TC_ACT_REDIRECT
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

// The machine is little-endian wherever the program is built for (amd64, arm64, riscv64); numbers that packets hold in
// network order are written here as it reads them.
const (
	typeIPv4  = 0x0008
	typeIPv6  = 0xdd86
	fragment4 = 0xff3f // more fragments, or an offset
)

const (
	flagFIN, flagSYN, flagRST, flagACK = 0x01, 0x02, 0x04, 0x10
	noted                              = flagFIN | flagSYN | flagRST | flagACK
)

// bpf_l4_csum_replace's flags.
const (
	pseudoHeader = 0x10
	mangled0     = 0x20 // UDP: a checksum of zero is none, and none becomes zero
)

// The stack, below the frame pointer. The new headers begin two bytes into eight, so that IP lies aligned.
const (
	stKey   = -48
	stIndex = -56
	stFlags = -64
	stAck   = -72
	stProto = -80
	stEther = -158
	stIP    = stEther + 14
)

// Registers that calls leave alone.
const (
	ctx   = asm.R6
	data  = asm.R7
	end   = asm.R8
	entry = asm.R9
	fp    = asm.RFP
)

// Offsets in value and State.
var (
	vDst   = int16(unsafe.Offsetof(value{}.dst))
	vPorts = int16(unsafe.Offsetof(value{}.ports))
	vLink  = int16(unsafe.Offsetof(value{}.link))
	vIndex = int16(unsafe.Offsetof(value{}.index))
	vID    = int16(unsafe.Offsetof(value{}.id))
	vWay   = int16(unsafe.Offsetof(value{}.way))
	vHead  = int16(unsafe.Offsetof(value{}.head))
	vAddrs = int16(unsafe.Offsetof(value{}.addrs))
	vShift = int16(unsafe.Offsetof(value{}.shift))
	vEther = int16(unsafe.Offsetof(value{}.ether)) + 2

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
	v4, v6 := family{"4", l4v4, table, states}, family{"6", l4v6, table, states}
	out = append(out, v4.read()...)
	out = append(out, v4.carry()...)
	out = append(out, v6.read()...)
	out = append(out, v6.carry()...)
	return append(out,
		asm.Mov.Imm(asm.R0, next).WithSymbol("pass"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, dropped).WithSymbol("broken"), // half rewritten
		asm.Return(),
	)
}

// atLeast passes on what has fewer than n bytes at hand.
func atLeast(n int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R2, data),
		asm.Add.Imm(asm.R2, n),
		asm.JGT.Reg(asm.R2, end, "pass"),
	}
}

// move copies pieces of memory through a register: sizes in bytes from consecutive offsets to consecutive offsets.
func move(to asm.Register, toOff int16, from asm.Register, fromOff int16, sizes ...asm.Size) (out asm.Instructions) {
	for _, s := range sizes {
		out = append(out, asm.LoadMem(asm.R1, from, fromOff, s), asm.StoreMem(to, toOff, asm.R1, s))
		toOff, fromOff = toOff+int16(s.Sizeof()), fromOff+int16(s.Sizeof())
	}
	return out
}

// family makes the part of the program for one IP version.
type family struct {
	name          string
	l4            int16 // offset of the transport header
	table, states int
}

func (f family) is4() bool { return f.l4 == l4v4 }

func (f family) label(s string) string { return s + f.name }

// read fills the key and keeps the protocol, or passes on. Afterwards R4 is the protocol.
func (f family) read() asm.Instructions {
	if f.is4() {
		out := asm.Instructions{
			asm.LoadMem(asm.R3, data, ip, asm.Byte).WithSymbol("ipv4"),
			asm.JNE.Imm(asm.R3, 0x45, "pass"),
			asm.LoadMem(asm.R3, data, ip+6, asm.Half),
			asm.And.Imm(asm.R3, fragment4),
			asm.JNE.Imm(asm.R3, 0, "pass"),
			asm.LoadMem(asm.R3, data, ip+8, asm.Byte),
			asm.JLT.Imm(asm.R3, 2, "pass"), // the host says so to the sender
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

// carry looks up, counts, rewrites and redirects.
func (f family) carry() (out asm.Instructions) {
	for _, part := range []asm.Instructions{f.transport(), f.lookup(), f.count(), f.header(), f.checksum(), f.send()} {
		out = append(out, part...)
	}
	return out
}

// transport keeps the flags and the acknowledgement of a TCP segment; what opens a connection passes on.
func (f family) transport() asm.Instructions {
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
		asm.And.Imm(asm.R5, noted),
		asm.StoreMem(fp, stFlags, asm.R5, asm.DWord),
		asm.LoadMem(asm.R3, data, f.l4+8, asm.Word),
		asm.HostTo(asm.BE, asm.R3, asm.Word),
		asm.StoreMem(fp, stAck, asm.R3, asm.DWord),
	)
}

// lookup finds the entry and the armed State, which is R0 then.
func (f family) lookup() asm.Instructions {
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

// count writes to the State at R0. Several processors may do so at once.
func (f family) count() asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R2, entry, vWay, asm.Word),
		asm.And.Imm(asm.R2, 1),
		asm.LSh.Imm(asm.R2, 2),
		asm.Mov.Reg(asm.R4, asm.R0),
		asm.Add.Reg(asm.R4, asm.R2), // to the way's 32-bit fields
		asm.LSh.Imm(asm.R2, 1),
		asm.Mov.Reg(asm.R3, asm.R0),
		asm.Add.Reg(asm.R3, asm.R2), // and to its 64-bit ones
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
		asm.JEq.Reg(asm.R2, asm.R5, f.label("noted")),
		orAtomic(asm.R4, asm.R5, sFlags),
		asm.And.Imm(asm.R5, flagACK).WithSymbol(f.label("noted")),
		asm.JEq.Imm(asm.R5, 0, f.label("counted")),
		asm.LoadMem(asm.R1, fp, stAck, asm.DWord),
		asm.StoreMem(asm.R4, sAcks, asm.R1, asm.Word),
	}
}

// orAtomic says which operation it is once more: cilium/ebpf v0.22.0 encodes it from the constant, which its own constructor
// leaves at zero, an addition.
func orAtomic(to, from asm.Register, off int16) asm.Instruction {
	i := asm.OrAtomic.Mem(to, from, asm.Word, off)
	i.Constant = int64(asm.OrAtomic >> 8)
	return i
}

// header writes Ethernet, IP and ports to the stack as they are to be.
func (f family) header() asm.Instructions {
	out := move(fp, stEther, entry, vEther, asm.Half, asm.Word, asm.DWord)
	out[0] = out[0].WithSymbol(f.label("counted"))
	if !f.is4() {
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
		asm.LoadMem(asm.R2, entry, vHead, asm.Word),
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

// checksum corrects the transport checksum where it lies: first for the addresses, which are part of the sum that the
// kernel has begun when it is to be completed later, then for the ports, which are not.
func (f family) checksum() asm.Instructions {
	replace := func(off int16, grows int16, flags int32, fail string) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, ctx),
			asm.Mov.Imm(asm.R2, int32(f.l4+off)),
			asm.Mov.Imm(asm.R3, 0),
			asm.LoadMem(asm.R4, entry, grows, asm.Word),
			asm.Mov.Imm(asm.R5, flags),
			asm.FnL4CsumReplace.Call(),
			asm.JNE.Imm(asm.R0, 0, fail),
		}
	}
	shifts := func(label string) asm.Instructions {
		return asm.Instructions{asm.LoadMem(asm.R4, entry, vShift, asm.Word), asm.JEq.Imm(asm.R4, 0, label)}
	}
	done, udp := f.label("summed"), f.label("udp")
	out := asm.Instructions{
		asm.LoadMem(asm.R1, fp, stProto, asm.DWord),
		asm.JEq.Imm(asm.R1, unix.IPPROTO_UDP, udp),
	}
	out = append(out, replace(16, vAddrs, pseudoHeader, "pass")...)
	out = append(out, shifts(done)...)
	out = append(out, replace(16, vShift, 0, "broken")...)
	out = append(out, asm.Ja.Label(done))
	u := replace(6, vAddrs, pseudoHeader|mangled0, "pass")
	u[0] = u[0].WithSymbol(udp)
	out = append(out, u...)
	out = append(out, shifts(done)...)
	return append(out, replace(6, vShift, mangled0, "broken")...)
}

// send puts the new headers into the packet and the packet into the other Pod.
func (f family) send() asm.Instructions {
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
