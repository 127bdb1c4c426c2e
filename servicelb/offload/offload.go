// Package offload forwards the packets of flows between two Pods of this node inside the kernel. An eBPF program at the
// Pods' interfaces (tcx ingress, Linux 6.6) translates the packets of the flows that it was given and redirects them into
// the other Pod.
//
// The package owns the program, its two maps, the links to the interfaces, and the assignment of slots to flows
// (slots.go). It decides nothing: the first packet of each flow, every fragment and every packet with IP options or
// extension headers pass on to the load balancer, which selects, checks and ends flows as without offload. The load
// balancer stops the offload of a flow with one write to shared memory.
//
// Nothing is pinned. When the process ends, for whatever reason, the kernel removes program, maps and links, and the load
// balancer forwards all packets again. On a kernel without tcx or in a process without CAP_BPF, New returns an error;
// then same-node flows are slower and nothing else changes.
package offload

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// MAC is a hardware address.
type MAC [6]byte

// Pod is the veth pair of a Pod.
type Pod struct {
	Link    int32 // interface index of the node's end
	HostMAC MAC   // of the node's end
	MAC     MAC   // of the Pod's end
}

// Tuple is the addresses and ports of one direction of a flow. Addresses are in the form of netip.Addr.As16.
type Tuple struct {
	Src, Dst         [16]byte
	SrcPort, DstPort uint16
}

func (t *Tuple) source() netip.Addr { return netip.AddrFrom16(t.Src).Unmap() }

// swapped is the tuple of the packets that answer.
func (t *Tuple) swapped() Tuple {
	return Tuple{Src: t.Dst, Dst: t.Src, SrcPort: t.DstPort, DstPort: t.SrcPort}
}

// Translation is one direction of a flow: packets with tuple In that Pod From sends reach Pod To with tuple Out.
type Translation struct {
	In, Out  Tuple
	From, To Pod
}

// State is the memory that the program and the process share for one flow, without locks. Direction 0 is the original
// one, 1 the reply.
type State struct {
	Armed   atomic.Uint32 // the ID of the entry that the program may use; 0: the program passes all packets on
	_       uint32
	Packets [2]atomic.Uint64 // since the process has last reset them; a super-packet counts as one
	Bytes   [2]atomic.Uint64 // from the IP header on
	Acks    [2]atomic.Uint32 // newest TCP acknowledgement of each direction; 0: none
	Flags   [2]atomic.Uint32 // union of SYN, ACK, FIN and RST that each direction has sent since the last reset
	_       [2]uint32
}

const stateSize = 64

const _ = uint(stateSize-unsafe.Sizeof(State{})) + uint(unsafe.Sizeof(State{})-stateSize)

// Reset zeroes the counters for another flow. The State is not armed.
func (s *State) Reset() {
	for i := range 2 {
		s.Packets[i].Store(0)
		s.Bytes[i].Store(0)
		s.Acks[i].Store(0)
		s.Flags[i].Store(0)
	}
}

// key and value are the entries of the program's map, from received packets to translations. Ports are in network order.
type key struct {
	src, dst [16]byte
	ports    [4]byte
	link     uint32
	proto    uint32
}

type value struct {
	src, dst [16]byte
	ports    [4]byte
	link     uint32
	index    uint32   // of the flow's State
	id       uint32   // State.Armed must be equal to it
	dir      uint32   // 0 original, 1 reply
	ipSum    uint32   // difference of the IPv4 header checksum, the decremented TTL included
	addrSum  uint32   // difference of the transport checksum because of the addresses
	portSum  uint32   // difference of the transport checksum because of the ports
	ether    [16]byte // two bytes of padding, then the new Ethernet header
}

const (
	keySize   = int(unsafe.Sizeof(key{}))
	valueSize = int(unsafe.Sizeof(value{}))
)

// Program is the loaded eBPF program with its maps and its links to interfaces.
type Program struct {
	log    *slog.Logger
	size   int
	table  *ebpf.Map
	states *ebpf.Map
	prog   *ebpf.Program
	memory []byte

	mu    sync.Mutex
	links map[int32]link.Link
}

// New loads the program for up to size flows. The error names what the kernel or the process lacks.
func New(size int, log *slog.Logger) (*Program, error) {
	p := &Program{log: log, size: size, links: map[int32]link.Link{}}
	if err := p.load(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Program) load() (err error) {
	p.table, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "warren_flows", Type: ebpf.Hash, KeySize: uint32(keySize), ValueSize: uint32(valueSize),
		MaxEntries: uint32(2 * p.size), Flags: unix.BPF_F_NO_PREALLOC, // entries take memory only while there are flows
	})
	if err != nil {
		return fmt.Errorf("create the BPF map of translations: %w", err)
	}
	p.states, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "warren_states", Type: ebpf.Array, KeySize: 4, ValueSize: stateSize,
		MaxEntries: uint32(p.size), Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return fmt.Errorf("create the BPF map of flow states: %w", err)
	}
	page := os.Getpagesize()
	length := (p.size*stateSize + page - 1) / page * page
	if p.memory, err = unix.Mmap(p.states.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the flow states into memory: %w", err)
	}
	p.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "warren_offload", Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: instructions(p.table.FD(), p.states.FD()),
	})
	if err != nil {
		return fmt.Errorf("load the BPF program: %w", err)
	}
	return p.tryAttach()
}

// tryAttach tests whether the kernel has tcx by attaching to an interface index that does not exist. A kernel with tcx
// answers ENODEV.
func (p *Program) tryAttach() error {
	l, err := p.attach(math.MaxInt32)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil
	case err == nil:
		return l.Close()
	}
	return fmt.Errorf("attach a BPF program (tcx, Linux 6.6 or newer): %w", err)
}

func (p *Program) attach(index int32) (link.Link, error) {
	return link.AttachTCX(link.TCXOptions{Interface: int(index), Program: p.prog, Attach: ebpf.AttachTCXIngress})
}

// Close detaches the program from all interfaces and releases the maps. No State may be used after it.
func (p *Program) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for i, l := range p.links {
		errs = append(errs, l.Close())
		delete(p.links, i)
	}
	if p.prog != nil {
		errs = append(errs, p.prog.Close())
	}
	if p.memory != nil {
		errs = append(errs, unix.Munmap(p.memory))
		p.memory = nil
	}
	for _, m := range []*ebpf.Map{p.table, p.states} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// Size returns the maximum number of flows.
func (p *Program) Size() int { return p.size }

// State returns the State with index i.
func (p *Program) State(i uint32) *State {
	return (*State)(unsafe.Pointer(&p.memory[int(i)*stateSize]))
}

// Attach attaches the program to these interfaces (by index) and detaches it from all others. It continues after a
// failure; the error names the interfaces without the program.
func (p *Program) Attach(links []int32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := map[int32]bool{}
	var errs []error
	for _, i := range links {
		want[i] = true
		if p.links[i] != nil {
			continue
		}
		l, err := p.attach(i)
		switch {
		case errors.Is(err, unix.ENODEV): // the Pod was deleted meanwhile
		case err != nil:
			errs = append(errs, fmt.Errorf("attach to interface %d: %w", i, err))
		default:
			p.links[i] = l
		}
	}
	for i, l := range p.links {
		if !want[i] {
			errs = append(errs, l.Close())
			delete(p.links, i)
		}
	}
	return errors.Join(errs...)
}

// Put writes both directions of a flow into the program's map. The program uses them while State(index).Armed is id.
func (p *Program) Put(index, id uint32, proto uint8, directions *[2]Translation) error {
	for i := range directions {
		t := &directions[i]
		k, v := keyFor(t, proto), valueFor(t)
		v.index, v.id, v.dir = index, id, uint32(i)
		if err := p.table.Update(unsafe.Pointer(&k), unsafe.Pointer(&v), ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}

// TestRun runs the program in the kernel on a frame as if interface 1 had received it (BPF_PROG_TEST_RUN). Nothing is
// sent. It returns the frame after the program and whether it would be redirected into another Pod. It is for tests.
func (p *Program) TestRun(frame []byte) (out []byte, forwarded bool, err error) {
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	verdict, err := p.prog.Run(&o)
	return o.DataOut, int32(verdict) == redirected, err
}

// Delete removes one direction of a flow from the program's map. The flow's State must have been disarmed for longer than
// a packet is in the program.
func (p *Program) Delete(proto uint8, t *Translation) {
	k := keyFor(t, proto)
	if err := p.table.Delete(unsafe.Pointer(&k)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		p.log.Warn("cannot remove an offloaded flow from the BPF map", "err", err)
	}
}

func keyFor(t *Translation, proto uint8) key {
	return key{t.In.Src, t.In.Dst, ports(t.In.SrcPort, t.In.DstPort), uint32(t.From.Link), uint32(proto)}
}

func valueFor(t *Translation) value {
	v := value{src: t.Out.Src, dst: t.Out.Dst, ports: ports(t.Out.SrcPort, t.Out.DstPort), link: uint32(t.To.Link)}
	is4 := netip.AddrFrom16(t.Out.Dst).Is4In6()
	addrs := sum{}
	addrs.replace(t.In.Src[:], t.Out.Src[:])
	addrs.replace(t.In.Dst[:], t.Out.Dst[:])
	v.addrSum = addrs.folded()
	if is4 {
		addrs.replace([]byte{1, 0}, []byte{0, 0}) // the TTL, less one
		v.ipSum = addrs.folded()
	}
	shift, from := sum{}, ports(t.In.SrcPort, t.In.DstPort)
	shift.replace(from[:], v.ports[:])
	v.portSum = shift.folded()
	copy(v.ether[2:], t.To.MAC[:])
	copy(v.ether[8:], t.To.HostMAC[:])
	v.ether[14], v.ether[15] = 0x08, 0x00
	if !is4 {
		v.ether[14], v.ether[15] = 0x86, 0xdd
	}
	return v
}

func ports(a, b uint16) [4]byte { return [4]byte{byte(a >> 8), byte(a), byte(b >> 8), byte(b)} }

// sum is a difference of ones' complement sums over 16-bit words in the machine's byte order (RFC 1624).
type sum struct{ n uint64 }

// replace subtracts the words before and adds those after.
func (s *sum) replace(before, after []byte) {
	for i := 0; i < len(before); i += 2 {
		o, n := word(before[i:]), word(after[i:])
		if o != n {
			s.n += uint64(^o) + uint64(n)
		}
	}
}

func word(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 }

func (s *sum) folded() uint32 {
	n := s.n
	for n>>16 != 0 {
		n = n&0xffff + n>>16
	}
	return uint32(n)
}
