package servicelb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// The flow file begins with a page of its own: magic, layout version, entry size, number of slots, boot and a check
// over these. Times in entries are of CLOCK_BOOTTIME and mean nothing after a reboot.
const (
	headerSize = 4096
	magic      = "warrenfl"
	layout     = 2
	headerUsed = 8 + 4 + 4 + 4 + bootLen
	bootLen    = 36
)

type header struct {
	version, entry, slots uint32
	boot                  [bootLen]byte
}

func newHeader(slots int) *header {
	return &header{layout, uint32(entrySize), uint32(slots), bootID()}
}

// bootID is the kernel's name for this boot; without it all boots look the same and the clocks decide.
func bootID() (id [bootLen]byte) {
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		copy(id[:], bytes.TrimSpace(b))
	}
	return id
}

// encode writes integers in the machine's byte order, as the entries are.
func (h *header) encode(b []byte) {
	copy(b, magic)
	binary.NativeEndian.PutUint32(b[8:], h.version)
	binary.NativeEndian.PutUint32(b[12:], h.entry)
	binary.NativeEndian.PutUint32(b[16:], h.slots)
	copy(b[20:], h.boot[:])
	binary.NativeEndian.PutUint32(b[headerUsed:], crc32.Checksum(b[:headerUsed], checkTable))
}

func decodeHeader(b []byte) (h header, err error) {
	if len(b) < headerUsed+4 || string(b[:8]) != magic {
		return h, errors.New("it is no flow file")
	}
	h.version = binary.NativeEndian.Uint32(b[8:])
	h.entry = binary.NativeEndian.Uint32(b[12:])
	h.slots = binary.NativeEndian.Uint32(b[16:])
	copy(h.boot[:], b[20:])
	switch {
	case h.version > layout:
		return h, fmt.Errorf("its layout version is %d, this warren knows %d", h.version, layout)
	case binary.NativeEndian.Uint32(b[headerUsed:]) != crc32.Checksum(b[:headerUsed], checkTable):
		return h, errors.New("its header is damaged")
	case h.version != layout || h.entry != uint32(entrySize) || h.slots == 0 || h.slots > maxCapacity:
		return h, fmt.Errorf("its layout is version %d with %d slots of %d bytes", h.version, h.slots, h.entry)
	case h.boot != bootID():
		return h, errors.New("it is from before a reboot")
	}
	return h, nil
}
