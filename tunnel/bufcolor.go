package tunnel

import (
	"context"
	"time"
	"unsafe"

	"golang.zx2c4.com/wireguard/device"
)

// Cache colouring. The WireGuard device keeps packets in buffers of 64 KB that all start at a multiple of 8 KB. A packet fills the
// first 1.5 KB only, so all packets in flight map to the same few sets of the processor's caches and evict each other: of a
// second-level cache of 2 MB they can use 50 KB. Buffers that start at different offsets avoid that. The device allocates its
// buffers itself, but accepts others (PutMessageBuffer), so they are exchanged gradually while there is traffic. Replaced ones are
// garbage; the garbage collector shrinks the pool of an idle device as before.

const (
	pageMask = 8192 - 1
	// colorStep visits the 128 cache lines of a Go page in steps that are coprime to their number, a packet apart.
	colorStep = 64 * 27
	// exchange is the number of buffers checked at once; the WireGuard device's goroutines hold up to 3 x 128.
	exchange      = 128
	exchangeEvery = 250 * time.Millisecond
)

// coloredBuffer allocates the i-th buffer.
func coloredBuffer(i int) *[device.MaxMessageSize]byte {
	b := make([]byte, device.MaxMessageSize+pageMask+1)
	at := (1 + i) * colorStep & pageMask
	if at == 0 {
		at = 64
	}
	return (*[device.MaxMessageSize]byte)(b[at:])
}

func aligned(b *[device.MaxMessageSize]byte) bool { return uintptr(unsafe.Pointer(b))&pageMask == 0 }

// colorBuffers exchanges the buffers of the WireGuard device until ctx ends; it does nothing while there is no traffic.
func colorBuffers(ctx context.Context, wg *device.Device, moved func() uint64) {
	tick := time.NewTicker(exchangeEvery)
	defer tick.Stop()
	held := make([]*[device.MaxMessageSize]byte, 0, exchange)
	var last uint64
	made := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := moved()
		if now-last < exchange {
			last = now
			continue
		}
		last = now
		for range exchange {
			held = append(held, wg.GetMessageBuffer())
		}
		for _, b := range held {
			if aligned(b) {
				b = coloredBuffer(made)
				made++
			}
			wg.PutMessageBuffer(b)
		}
		clear(held)
		held = held[:0]
	}
}
