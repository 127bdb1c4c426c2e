package servicelb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/flock"
	"golang.org/x/sys/unix"
)

// flowFile is the memory-mapped file of flows. The lock lies in a file of its own, because the flow file itself may be
// replaced. Space is reserved at creation: a full tmpfs must not become a SIGBUS later.
type flowFile struct {
	lock *flock.Lock
	mem  []byte
}

// maxCapacity bounds what a file may claim to hold.
const maxCapacity = 1 << 28

// openFlows makes b.flows: from the file of an earlier process where there is a good one.
func (b *Balancer) openFlows(c Config) error {
	if c.MaxFlows < 1 || c.MaxFlows > maxCapacity {
		return fmt.Errorf("flow table: %d flows, expected 1 to %d", c.MaxFlows, maxCapacity)
	}
	b.file = &flowFile{}
	if c.FlowFile == "" {
		b.flows = newFlows(make([]entry, c.MaxFlows))
		return nil
	}
	if err := b.file.open(b, c); err != nil {
		return errors.Join(fmt.Errorf("flow file %s: %w", c.FlowFile, err), b.file.close())
	}
	return nil
}

func (f *flowFile) open(b *Balancer, c Config) error {
	var err error
	if f.lock, err = flock.Try(c.FlowFile + ".lock"); err != nil {
		return err
	}
	old, err := mapOld(c.FlowFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		aside := c.FlowFile + ".aside"
		b.log.Warn("flow file set aside, flows begin anew", "file", c.FlowFile, "aside", aside, "err", err)
		if err := os.Rename(c.FlowFile, aside); err != nil {
			return err
		}
	}
	if old != nil && len(slotsOf(old)) == c.MaxFlows {
		f.mem = old
		b.flows = newFlows(slotsOf(old))
		b.adopt(slotsOf(old), true)
		return nil
	}
	if f.mem, err = createFile(c.FlowFile, c.MaxFlows); err != nil {
		return err
	}
	b.flows = newFlows(slotsOf(f.mem))
	if old != nil { // another capacity: what fits moves
		b.adopt(slotsOf(old), false)
		return unix.Munmap(old)
	}
	return nil
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

// createFile makes an empty flow file and puts it in place whole.
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

// mapOld maps an existing file, or says what is wrong with it.
func mapOld(path string) ([]byte, error) {
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
		return nil, fmt.Errorf("it has %d bytes, its header says %d", st.Size(), size)
	}
	return mapFile(file, st.Size())
}

func slotsOf(mem []byte) []entry {
	return unsafe.Slice((*entry)(unsafe.Pointer(&mem[headerSize])), (len(mem)-headerSize)/int(entrySize))
}
