// Package tunfd opens the queues of a TUN device and sets its MTU and link state. It owns the file descriptors of those queues;
// it never changes addresses, routes or rules.
package tunfd

import "errors"

// Kernel is what the TUN device needs of the operating system. Linux is the real one; tests use one that refuses requests.
type Kernel interface {
	// Attach opens one more queue of the TUN of that name, and creates the device if it does not exist. The queue is always in
	// multi-queue mode: a device created without it cannot be reopened with it, nor the reverse.
	Attach(name string, vnet bool) (Queue, error)
	// SetMTU sets the MTU in bytes.
	SetMTU(name string, mtu int) error
	// MTU returns the MTU in bytes; an error means that there is no such device.
	MTU(name string) (int, error)
	// SetUp sets the link up.
	SetUp(name string) error
}

// Queue is one open queue of a TUN. Read has one caller at a time; Write has any number.
type Queue interface {
	// SetVnetLen sets the length of the virtio header in bytes.
	SetVnetLen(n int) error
	// SetOffload sets the offloads (TUN_F_*) that the kernel may use towards the process.
	SetOffload(flags int) error
	// SetPersist keeps the device when its last queue is closed.
	SetPersist(on bool) error
	// Read reads one packet with its virtio header. Without wait it returns ErrAgain when there is none; with it, it returns
	// ErrWoken after Wake.
	Read(b []byte, wait bool) (int, error)
	// Wake ends a waiting Read.
	Wake()
	// Write passes one packet to the kernel, scattered over v; the virtio header comes first.
	Write(v [][]byte) error
	// Close closes the queue; a waiting Read ends.
	Close() error
}

// Results of Read that are no faults.
var (
	ErrAgain = errors.New("no packet available")
	ErrWoken = errors.New("read woken")
)
