package tundev

import (
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/limits"
)

// maxFrames bounds the super-packets that wait between queues: 64 of 64 KB.
const maxFrames = 64

// frame is the memory of one super-packet: the virtio header and the packet behind it.
type frame struct {
	pkt packet.Packet
	raw []byte
	// probe marks a path MTU probe: whatever its size, it is sent unchanged and with DF.
	probe bool
	// refragment marks an IPv6 packet that the balancer has reassembled: if it is too large, it is sent in fragments again.
	refragment bool
	vec        [1][]byte // for writing raw without an allocation
}

func newFrame() *frame { return &frame{raw: make([]byte, packet.VnetLen+limits.MaxPacket+1)} }

// room returns the memory of the packet.
func (f *frame) room() []byte { return f.raw[packet.VnetLen:] }

// parse parses what the kernel wrote to raw[:n]. Without virtio headers the packet still starts at room().
func (f *frame) parse(n int, vnet bool) packet.Fault {
	f.pkt.Vnet = packet.Vnet{}
	if !vnet {
		return f.pkt.Parse(f.room()[:n])
	}
	if n < packet.VnetLen {
		return packet.Short
	}
	f.pkt.Vnet.Decode(f.raw)
	if fault := f.pkt.Parse(f.raw[packet.VnetLen:n]); fault != packet.OK {
		return fault
	}
	return f.pkt.VnetFault()
}

// frames has the pool of frames, which is bounded, and the frames that wait for the first queue's reader.
type frames struct {
	free    chan *frame
	waiting chan *frame   // for the first queue's reader
	unmade  chan struct{} // one token per frame not yet allocated
}

func newFrames() *frames {
	f := &frames{free: make(chan *frame, maxFrames), waiting: make(chan *frame, maxFrames), unmade: make(chan struct{}, maxFrames)}
	for range maxFrames {
		f.unmade <- struct{}{}
	}
	return f
}

// get returns a frame, or nil when all are in use.
func (f *frames) get() *frame {
	select {
	case b := <-f.free:
		return b
	default:
	}
	select {
	case b := <-f.free:
		return b
	case <-f.unmade:
		return newFrame()
	default:
		return nil
	}
}

// wait is get for a reader that may block; it returns nil when done is closed.
func (f *frames) wait(done <-chan struct{}) *frame {
	if b := f.get(); b != nil {
		return b
	}
	select {
	case b := <-f.free:
		return b
	case <-done:
		return nil
	}
}

func (f *frames) put(b *frame) {
	b.probe, b.refragment = false, false
	f.free <- b
}
