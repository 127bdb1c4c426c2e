package tunnel

import "errors"

// kernel is what the device needs of the operating system; linuxKernel is the real one, tests bring one that
// refuses things.
type kernel interface {
	// attach opens one more queue of the TUN of that name and makes the device if it is not there. The queue is in
	// multi-queue mode always: a device made without cannot be reopened with it, nor the reverse.
	attach(name string, vnet bool) (queue, error)
	setMTU(name string, mtu int) error
	mtu(name string) (int, error)
	setUp(name string) error
}

// queue is one open queue of a TUN. read has one caller at a time; write has any number.
type queue interface {
	setVnetLen(n int) error
	setOffload(flags int) error
	setPersist(on bool) error
	// read takes one packet with its virtio header. Without wait it returns errAgain when there is none; with it,
	// it returns errWoken after wake.
	read(b []byte, wait bool) (int, error)
	wake()
	// write hands one packet to the kernel, scattered over v; the virtio header comes first.
	write(v [][]byte) error
	close() error
}

var (
	errAgain = errors.New("no packet waits")
	errWoken = errors.New("woken")
)

// Offload features, in bits of the tunnel's own.
type feature uint8

const (
	featVnet   feature = 1 << iota // virtio header at all
	featCsum                       // the kernel may leave checksums to us
	featTSO                        // TCP super-packets from the kernel
	featECN                        // those with CWR too
	featUSO                        // UDP super-packets from the kernel
	featTCPGRO                     // TCP super-packets to the kernel
	featUDPGRO                     // UDP super-packets to the kernel
	featAll    = featVnet | featCsum | featTSO | featECN | featUSO | featTCPGRO | featUDPGRO
)

var featureNames = []struct {
	f    feature
	name string
}{{featVnet, "vnet"}, {featCsum, "csum"}, {featTSO, "tso"}, {featECN, "ecn"}, {featUSO, "uso"}, {featTCPGRO, "tcp-gro"}, {featUDPGRO, "udp-gro"}}

func (f feature) names() []string {
	var out []string
	for _, n := range featureNames {
		if f&n.f != 0 {
			out = append(out, n.name)
		}
	}
	return out
}
