package packet

import (
	"encoding/binary"
	"hash/crc32"
)

// castagnoli is the polynomial of SCTP's checksum (RFC 9260, appendix A). The table is made once; crc32 uses the
// processor's instruction where there is one.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fixSCTP computes SCTP's CRC32c after a port has changed. The checksum has no pseudo-header, so addresses do not matter.
// A packet with NeedsCsum has no checksum yet. A fragment does not contain the whole packet: its checksum is corrected by
// SCTPPortsChecksum once the length of the packet is known.
func (p *Packet) fixSCTP() {
	if p.Vnet.Flags&NeedsCsum != 0 || p.Fragment() || len(p.Buf) != p.Length {
		return
	}
	SCTPChecksum(p.Buf[p.L4:])
}

// SCTPChecksum writes the checksum of an SCTP packet (common header and chunks, at least 12 bytes).
func SCTPChecksum(b []byte) {
	b[8], b[9], b[10], b[11] = 0, 0, 0, 0
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
}

// noBytes is what SCTPPortsChecksum sums.
var noBytes [4096]byte

// SCTPPortsChecksum corrects the checksum in a common header whose ports were changed. ports is the exclusive or of the
// new and the former ports; size is the length in bytes of the SCTP packet, common header included. CRC32c is linear: for
// packets of one length, the exclusive or of two checksums is the checksum of the exclusive or of the packets, computed
// with initial value 0 instead of ones.
func SCTPPortsChecksum(b []byte, ports uint32, size int) {
	sum := crc32.Update(^uint32(0), castagnoli, binary.BigEndian.AppendUint32(nil, ports))
	for left := size - 4; left > 0; left -= len(noBytes) {
		sum = crc32.Update(sum, castagnoli, noBytes[:min(left, len(noBytes))])
	}
	binary.LittleEndian.PutUint32(b[8:], binary.LittleEndian.Uint32(b[8:])^^sum)
}
