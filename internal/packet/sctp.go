package packet

import (
	"encoding/binary"
	"hash/crc32"
)

// castagnoli is the polynomial of SCTP's checksum (RFC 9260, appendix A). The table is made once; crc32 uses the
// processor's instruction where there is one.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fixSCTP computes SCTP's CRC32c anew after a port has changed: it has no pseudo-header, so addresses do not matter,
// and no cheap difference. A packet whose checksum the kernel left to us, or a fragment (the rest of it is not
// here), cannot be summed; the former needs nothing, the latter must not be translated by ports in the first place.
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
