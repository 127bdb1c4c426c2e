package hostnet

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Shaped returns the indexes of the interfaces that have a queueing discipline for sent packets, such as a bandwidth limit.
func Shaped() (map[int]bool, error) {
	all, err := dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list queueing disciplines: %w", err)
	}
	out := map[int]bool{}
	for _, q := range all {
		if a := q.Attrs(); a.Parent == netlink.HANDLE_ROOT && q.Type() != "noqueue" {
			out[a.LinkIndex] = true
		}
	}
	return out, nil
}
