package conntrack

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/flock"
)

// Config configures a Table.
type Config struct {
	// Path of the flow file; "" means anonymous memory.
	Path string
	// Capacity is the number of slots, 1 to MaxCapacity.
	Capacity int
	// Now is the time in seconds of CLOCK_BOOTTIME. Entries of a later time are not restored.
	Now uint32
	// Ended is called for each flow that has ended, with its slot and last status. The entry belongs to the callee until
	// it returns. No shard is locked. May be nil.
	Ended func(slot uint32, last Status)
	Log   *slog.Logger
}

// MaxCapacity bounds the number of slots.
const MaxCapacity = 1 << 28

// flowFile is the memory-mapped file of flows. The lock is a file of its own because the flow file may be replaced.
// Space is reserved when the file is created: a full tmpfs must not become a SIGBUS later.
type flowFile struct {
	lock *flock.Lock
	mem  []byte
}

// Open makes a table from the flow file of a previous process, or an empty one if there is none that can be used.
func Open(c Config) (*Table, error) {
	if c.Capacity < 1 || c.Capacity > MaxCapacity {
		return nil, fmt.Errorf("flow table: %d flows, expected 1 to %d", c.Capacity, MaxCapacity)
	}
	if c.Path == "" {
		return newTable(make([]Entry, c.Capacity), c.Ended), nil
	}
	f := &flowFile{}
	t, err := f.open(c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("flow file %s: %w", c.Path, err), f.close())
	}
	t.file = f
	return t, nil
}

// Close unmaps and unlocks the flow file. No packet may be in the table and no reader may use it.
func (t *Table) Close() error {
	if t.file == nil {
		return nil
	}
	return t.file.close()
}

func (f *flowFile) open(c Config) (*Table, error) {
	var err error
	if f.lock, err = flock.Try(c.Path + ".lock"); err != nil {
		return nil, err
	}
	old, err := mapExisting(c.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		aside := c.Path + ".aside"
		c.Log.Warn("incompatible flow table file moved aside; starting with an empty table", "file", c.Path, "new", aside, "err", err)
		if err := os.Rename(c.Path, aside); err != nil {
			return nil, err
		}
	}
	if old != nil && len(slotsOf(old)) == c.Capacity {
		f.mem = old
		t := newTable(slotsOf(old), c.Ended)
		t.restore(slotsOf(old), true, c.Now, c.Log)
		return t, nil
	}
	if f.mem, err = createFile(c.Path, c.Capacity); err != nil {
		return nil, err
	}
	t := newTable(slotsOf(f.mem), c.Ended)
	if old == nil {
		return t, nil
	}
	t.restore(slotsOf(old), false, c.Now, c.Log) // of another capacity: as many flows as there is room for
	return t, unix.Munmap(old)
}

func (f *flowFile) close() error {
	var err error
	if f.mem != nil {
		err = unix.Munmap(f.mem)
		f.mem = nil
	}
	if f.lock != nil {
		err = errors.Join(err, f.lock.Close())
		f.lock = nil
	}
	return err
}

// createFile makes an empty flow file and renames it into place when it is complete.
func createFile(path string, slots int) ([]byte, error) {
	file, err := atomicfile.Create(path, 0o600)
	if err != nil {
		return nil, err
	}
	mem, err := initialize(file.File, slots)
	if err != nil {
		return nil, errors.Join(err, file.Discard())
	}
	if err := file.Commit(); err != nil {
		return nil, errors.Join(err, unix.Munmap(mem))
	}
	return mem, file.Close()
}

// initialize reserves the space of a flow file, maps it and writes its header.
func initialize(file *os.File, slots int) ([]byte, error) {
	size := int64(headerSize) + int64(slots)*int64(entrySize)
	if err := unix.Fallocate(int(file.Fd()), 0, 0, size); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("reserve %d bytes: %w", size, err)
	}
	if err := file.Truncate(size); err != nil {
		return nil, err
	}
	mem, err := mapFile(file, size)
	if err != nil {
		return nil, err
	}
	newHeader(slots).encode(mem)
	return mem, nil
}

func mapFile(file *os.File, size int64) ([]byte, error) {
	return unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// mapExisting maps a flow file, or returns why it cannot be used.
func mapExisting(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var head [headerSize]byte
	if _, err := file.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	h, err := decodeHeader(head[:])
	if err != nil {
		return nil, err
	}
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if size := headerSize + int64(h.slots)*int64(entrySize); st.Size() != size {
		return nil, fmt.Errorf("size %d bytes, expected %d for the %d slots of its header", st.Size(), size, h.slots)
	}
	return mapFile(file, st.Size())
}

func slotsOf(mem []byte) []Entry {
	return unsafe.Slice((*Entry)(unsafe.Pointer(&mem[headerSize])), (len(mem)-headerSize)/int(entrySize))
}
