package hostnet

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumpTries bounds how often a list is read again that changed while it was read. On a node where Pods are created and
// deleted this happens every few seconds.
const dumpTries = 20

// dump reads a list from the kernel, again when the kernel reports that the list changed in between.
func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}
