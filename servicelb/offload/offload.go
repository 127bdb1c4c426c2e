// Package offload lets the kernel carry the packets of flows between two Pods of this node: a BPF program where a Pod's
// packets enter the node (tcx, Linux 6.6) translates those of the flows it was told of and puts them straight into the
// other Pod. It decides nothing. Every flow's first packet, every fragment and every packet with IP options passes on to
// the load balancer, which chooses, checks and ends flows as without it, and takes a flow back with one write to
// memory that both share.
//
// Nothing is pinned: when the process ends, however it ends, the kernel removes program, maps and links, and all packets
// go the long way again. On a kernel without tcx or a process without CAP_BPF New fails and nothing is lost but speed.
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

// Pod is where a Pod's packets enter the node and leave it.
type Pod struct {
	Link    int32 // index of the node's end of its veth pair
	HostMAC MAC   // of that end
	MAC     MAC   // of the Pod's own end
}

// Tuple is one way of a flow as its packets are received: addresses as netip.Addr.As16 gives them, ports as numbers.
type Tuple struct {
	Src, Dst     [16]byte
	Sport, Dport uint16
}

// Translation is one way of a flow: packets that enter by From as In leave to To as Out.
type Translation struct {
	In, Out  Tuple
	From, To Pod
}

// State is what program and process share of one flow, without locks. The ways are 0, the client's, and 1.
type State struct {
	Armed   atomic.Uint32 // the ID that the program must find in its own entry; 0: hands off
	_       uint32
	Packets [2]atomic.Uint64 // since they were last taken; a super-packet is one
	Bytes   [2]atomic.Uint64 // from the IP header on
	Acks    [2]atomic.Uint32 // newest TCP acknowledgement of each way, 0 while there is none
	Flags   [2]atomic.Uint32 // all of SYN, ACK, FIN and RST that each way has sent since they were last taken
	_       [2]uint32
}

const stateSize = 64

const _ = uint(stateSize-unsafe.Sizeof(State{})) + uint(unsafe.Sizeof(State{})-stateSize)

// Reset forgets what was counted. The flow is not armed.
func (s *State) Reset() {
	for i := range 2 {
		s.Packets[i].Store(0)
		s.Bytes[i].Store(0)
		s.Acks[i].Store(0)
		s.Flags[i].Store(0)
	}
}

// key and value are the program's map from packets to translations. Ports are in network order.
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
	index    uint32 // of the flow's State
	id       uint32
	way      uint32
	head     uint32   // what the IPv4 header's checksum grows by, the TTL's step included
	addrs    uint32   // what a transport checksum grows by for the addresses
	shift    uint32   // and for the ports
	ether    [16]byte // two bytes of padding, then the Ethernet header
}

const (
	keySize   = int(unsafe.Sizeof(key{}))
	valueSize = int(unsafe.Sizeof(value{}))
)

// Program is the program with its maps and the interfaces it runs at.
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

// New loads the program for up to size flows. The error says what the kernel or the process lacks.
func New(size int, log *slog.Logger) (*Program, error) {
	p := &Program{log: log, size: size, links: map[int32]link.Link{}}
	if err := p.load(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Program) load() (err error) {
	// Not preallocated: entries take memory when there are flows, not before.
	if p.table, err = ebpf.NewMap(&ebpf.MapSpec{Name: "warren_flows", Type: ebpf.Hash, KeySize: uint32(keySize), ValueSize: uint32(valueSize),
		MaxEntries: uint32(2 * p.size), Flags: unix.BPF_F_NO_PREALLOC}); err != nil {
		return fmt.Errorf("make a BPF map: %w", err)
	}
	if p.states, err = ebpf.NewMap(&ebpf.MapSpec{Name: "warren_states", Type: ebpf.Array, KeySize: 4, ValueSize: stateSize,
		MaxEntries: uint32(p.size), Flags: unix.BPF_F_MMAPABLE}); err != nil {
		return fmt.Errorf("make a BPF map: %w", err)
	}
	page := os.Getpagesize()
	length := (p.size*stateSize + page - 1) / page * page
	if p.memory, err = unix.Mmap(p.states.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the flows' states: %w", err)
	}
	if p.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "warren_offload", Type: ebpf.SchedCLS, Instructions: instructions(p.table.FD(), p.states.FD()), License: "Apache-2.0"}); err != nil {
		return fmt.Errorf("load the BPF program: %w", err)
	}
	return p.tryAttach()
}

// tryAttach finds out whether there is tcx before anybody counts on it: such a kernel misses the interface only.
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

// Close takes the program from all interfaces and lets go of everything.
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

// Size is how many flows there is room for.
func (p *Program) Size() int { return p.size }

// State is the i-th flow's.
func (p *Program) State(i uint32) *State {
	return (*State)(unsafe.Pointer(&p.memory[int(i)*stateSize]))
}

// Attach makes the program run at these interfaces (by index) and at no others. Those where it cannot are left out; the
// error names them.
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
		case errors.Is(err, unix.ENODEV): // the Pod has just gone
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

// Put tells the program of both ways of a flow. They are inert until the State at index is armed with that ID.
func (p *Program) Put(index, id uint32, proto uint8, ways *[2]Translation) error {
	for i := range ways {
		w := &ways[i]
		k, v := keyFor(w, proto), valueFor(w)
		v.index, v.id, v.way = index, id, uint32(i)
		if err := p.table.Update(unsafe.Pointer(&k), unsafe.Pointer(&v), ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}

// Try passes a frame through the program as if it had entered by the interface with index 1, and sends nothing. It says
// what has become of the frame and whether it would go into another Pod.
func (p *Program) Try(frame []byte) (out []byte, carried bool, err error) {
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	verdict, err := p.prog.Run(&o)
	return o.DataOut, int32(verdict) == redirected, err
}

// Delete makes the program forget what Put told it of one way. The flow's State must have been disarmed for longer than a
// packet takes through the program.
func (p *Program) Delete(proto uint8, w *Translation) {
	k := keyFor(w, proto)
	if err := p.table.Delete(unsafe.Pointer(&k)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		p.log.Warn("cannot remove a flow from the BPF map", "err", err)
	}
}

func keyFor(w *Translation, proto uint8) key {
	return key{w.In.Src, w.In.Dst, ports(w.In.Sport, w.In.Dport), uint32(w.From.Link), uint32(proto)}
}

func valueFor(w *Translation) value {
	v := value{src: w.Out.Src, dst: w.Out.Dst, ports: ports(w.Out.Sport, w.Out.Dport), link: uint32(w.To.Link)}
	addrs := sum{}
	addrs.replace(w.In.Src[:], w.Out.Src[:])
	addrs.replace(w.In.Dst[:], w.Out.Dst[:])
	v.addrs = addrs.folded()
	if netip.AddrFrom16(w.Out.Dst).Is4In6() {
		addrs.replace([]byte{1, 0}, []byte{0, 0}) // one hop
		v.head = addrs.folded()
	}
	shift, from := sum{}, ports(w.In.Sport, w.In.Dport)
	shift.replace(from[:], v.ports[:])
	v.shift = shift.folded()
	copy(v.ether[2:], w.To.MAC[:])
	copy(v.ether[8:], w.To.HostMAC[:])
	v.ether[14], v.ether[15] = 0x08, 0x00
	if !netip.AddrFrom16(w.Out.Dst).Is4In6() {
		v.ether[14], v.ether[15] = 0x86, 0xdd
	}
	return v
}

func ports(a, b uint16) [4]byte { return [4]byte{byte(a >> 8), byte(a), byte(b >> 8), byte(b)} }

// sum is a difference of ones' complement sums over 16-bit words in the machine's order (RFC 1624).
type sum struct{ n uint64 }

// replace takes the words of old out and those of new in.
func (s *sum) replace(old, new []byte) {
	for i := 0; i < len(old); i += 2 {
		o, n := word(old[i:]), word(new[i:])
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
