package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// The flow file begins with a page of its own: magic, layout version, entry size, number of slots, boot ID and a
// checksum over these. Times in entries are of CLOCK_BOOTTIME and have no meaning after a reboot.
const (
	headerSize    = 4096
	magic         = "warrenfl"
	layoutVersion = 3
	headerUsed    = 8 + 4 + 4 + 4 + bootLen
	bootLen       = 36
)

type header struct {
	version, entry, slots uint32
	boot                  [bootLen]byte
}

func newHeader(slots int) *header {
	return &header{layoutVersion, uint32(entrySize), uint32(slots), bootID()}
}

// bootID returns the kernel's ID of this boot. If it cannot be read it is zero in every boot, and only the times in the
// entries show that they are old.
func bootID() (id [bootLen]byte) {
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		copy(id[:], bytes.TrimSpace(b))
	}
	return id
}

// encode writes integers in the machine's byte order, as the entries have them.
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
		return h, errors.New("not a flow file")
	}
	h.version = binary.NativeEndian.Uint32(b[8:])
	h.entry = binary.NativeEndian.Uint32(b[12:])
	h.slots = binary.NativeEndian.Uint32(b[16:])
	copy(h.boot[:], b[20:])
	switch {
	case h.version > layoutVersion:
		return h, fmt.Errorf("layout version %d, expected at most %d", h.version, layoutVersion)
	case binary.NativeEndian.Uint32(b[headerUsed:]) != crc32.Checksum(b[:headerUsed], checkTable):
		return h, errors.New("wrong header checksum")
	case h.version != layoutVersion || h.entry != uint32(entrySize) || h.slots == 0 || h.slots > MaxCapacity:
		return h, fmt.Errorf("layout version %d with %d slots of %d bytes, expected version %d with slots of %d bytes",
			h.version, h.slots, h.entry, layoutVersion, entrySize)
	case h.boot != bootID():
		return h, errors.New("written before a reboot")
	}
	return h, nil
}
