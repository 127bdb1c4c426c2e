package hostnet

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumpTries bounds how often a list is read again that changed while it was read: on a node where Pods come and go that
// is every few seconds.
const dumpTries = 20

// dump reads a list of the kernel's as a whole.
func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}
