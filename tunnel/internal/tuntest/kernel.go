package tuntest

import (
	"bytes"
	"log/slog"
	"os"
	"sync"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/tunfd"
	"golang.org/x/sys/unix"
)

// QuietLog discards everything.
var QuietLog = slog.New(slog.DiscardHandler)

// Kernel is a fake tunfd.Kernel with the rules of a Linux TUN: queues deliver in order, a Read without a packet is EAGAIN, a refused
// offload stays refused, a super-packet of an unknown kind is EINVAL, and a device that is down returns EIO.
type Kernel struct {
	mu       sync.Mutex
	queues   []*Queue
	MTUSet   int
	Up       bool
	NoVnet   bool
	Refuse   int   // TUNSETOFFLOAD bits answered with EINVAL
	RefuseTo error // error for super-packets written; nil: accepted
	OnlyKind uint8 // with RefuseTo: this GSO type only, 0 all
}

// Attach makes a queue.
func (k *Kernel) Attach(_ string, vnet bool) (tunfd.Queue, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if vnet && k.NoVnet {
		return nil, unix.EINVAL
	}
	q := NewQueue()
	q.k = k
	k.queues = append(k.queues, q)
	return q, nil
}

// SetMTU records the MTU.
func (k *Kernel) SetMTU(_ string, mtu int) error { k.MTUSet = mtu; return nil }

// MTU returns the MTU that was set.
func (k *Kernel) MTU(string) (int, error) { return k.MTUSet, nil }

// SetUp records that the interface is up.
func (k *Kernel) SetUp(string) error { k.Up = true; return nil }

// Queue is a queue of the fake device.
type Queue struct {
	k       *Kernel
	In      chan []byte // virtio header + packet
	woken   chan struct{}
	gone    chan struct{}
	once    sync.Once
	offload int
	Persist bool
	vnetLen int

	mu   sync.Mutex
	next error // of the next Read
	out  [][]byte
}

// SetVnetLen records the length of the virtio header.
func (q *Queue) SetVnetLen(n int) error { q.vnetLen = n; return nil }

// SetPersist records whether the device outlives the queue.
func (q *Queue) SetPersist(on bool) error { q.Persist = on; return nil }

// SetOffload records the offloads, and refuses those that the kernel does not have.
func (q *Queue) SetOffload(flags int) error {
	if q.k != nil && flags&q.k.Refuse != 0 {
		return unix.EINVAL
	}
	q.offload = flags
	return nil
}

// Read returns the next packet of In.
func (q *Queue) Read(b []byte, wait bool) (int, error) {
	q.mu.Lock()
	err := q.next
	q.next = nil
	q.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if !wait {
		select {
		case p := <-q.In:
			return copy(b, p), nil
		default:
			return 0, tunfd.ErrAgain
		}
	}
	select {
	case p := <-q.In:
		return copy(b, p), nil
	case <-q.woken:
		return 0, tunfd.ErrWoken
	case <-q.gone:
		return 0, os.ErrClosed
	}
}

// Wake ends a blocked Read.
func (q *Queue) Wake() {
	select {
	case q.woken <- struct{}{}:
	default:
	}
}

// Write records a packet.
func (q *Queue) Write(v [][]byte) error {
	joined := bytes.Join(v, nil)
	if q.k != nil {
		var h packet.Vnet
		h.Decode(joined)
		kind := h.GSOType &^ packet.GSOECN
		if kind != packet.GSONone && q.k.RefuseTo != nil && (q.k.OnlyKind == 0 || q.k.OnlyKind == kind) {
			return q.k.RefuseTo
		}
		if !q.k.Up {
			return unix.EIO
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out = append(q.out, joined)
	return nil
}

// Close ends Read.
func (q *Queue) Close() error { q.once.Do(func() { close(q.gone) }); return nil }

// Taken returns the packets written since the last call.
func (q *Queue) Taken() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.out
	q.out = nil
	return out
}

// Feed queues a packet for Read.
func (q *Queue) Feed(v packet.Vnet, b []byte) {
	raw := make([]byte, packet.VnetLen, packet.VnetLen+len(b))
	v.Encode(raw)
	q.In <- append(raw, b...)
}

// NewQueue returns an open queue of no kernel.
func NewQueue() *Queue {
	return &Queue{In: make(chan []byte, 1024), woken: make(chan struct{}, 1), gone: make(chan struct{})}
}

// Queue returns the attached queue of that index; a negative one counts from the last.
func (k *Kernel) Queue(i int) *Queue {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i < 0 {
		i += len(k.queues)
	}
	return k.queues[i]
}

// FailRead makes the next Read fail.
func (q *Queue) FailRead(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next = err
}
