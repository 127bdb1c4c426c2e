package lab

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Cut drops every frame between two machines in both directions, as a broken cable would. Heal undoes it.
//
// It is a classic BPF filter per direction on the receiver's switch port that drops frames with the sender's link
// address. It needs no kernel module, and neither machine can see it.
func (l *Lab) Cut(a, b string) error {
	return l.bothDirections(a, b, func(sw int, port, from string) error {
		if _, err := l.output(sw, "tc", "qdisc", "replace", "dev", port, "clsact"); err != nil {
			return err
		}
		m := mac(from)
		prog := fmt.Sprintf("4,32 0 0 8,21 0 1 %d,6 0 0 2,6 0 0 4294967295", binary.BigEndian.Uint32(m[2:]))
		_, err := l.output(sw, "tc", "filter", "replace", "dev", port, "egress", "pref", pref(from), "handle", "1", "bpf", "da",
			"bytecode", prog)
		return err
	})
}

// Heal undoes Cut. Two machines that are not cut are healed.
func (l *Lab) Heal(a, b string) error {
	return l.bothDirections(a, b, func(sw int, port, from string) error {
		cut, err := l.hasFilters(sw, port)
		if err != nil || !cut {
			return err
		}
		filter := []string{"dev", port, "egress", "pref", pref(from)}
		have, err := l.output(sw, append([]string{"tc", "filter", "show"}, filter...)...)
		if err != nil || have == "" {
			return err
		}
		_, err = l.output(sw, append([]string{"tc", "filter", "del"}, filter...)...)
		return err
	})
}

// hasFilters reports whether a port of the switch has the qdisc that carries filters.
func (l *Lab) hasFilters(sw int, port string) (bool, error) {
	out, err := l.output(sw, "tc", "qdisc", "show", "dev", port, "clsact")
	return strings.Contains(out, "clsact"), err
}

// HealAll undoes every Cut.
func (l *Lab) HealAll() error {
	sw, err := l.hold(switchName)
	if err != nil {
		return err
	}
	for _, m := range append(l.NodeNames(), l.etcdNames()...) {
		cut, err := l.hasFilters(sw, m)
		if err != nil {
			return err
		}
		if !cut {
			continue
		}
		if _, err := l.output(sw, "tc", "qdisc", "del", "dev", m, "clsact"); err != nil {
			return err
		}
	}
	return nil
}

// pref is the preference of the filter that drops frames of a machine.
func pref(from string) string { return strconv.Itoa(int(hostNumber(from))) }

// bothDirections calls do with the switch's process, the port of the receiver and the name of the sender, once for each direction.
func (l *Lab) bothDirections(a, b string, do func(sw int, port, from string) error) error {
	for _, m := range []string{a, b} {
		if _, err := os.Stat(l.machineDir(m)); m == "" || m == switchName || err != nil {
			return fmt.Errorf("machine %q does not exist in lab %s; expected one of %s", m, l.Name,
				strings.Join(append(l.NodeNames(), l.etcdNames()...), ", "))
		}
	}
	sw, err := l.hold(switchName)
	if err != nil {
		return err
	}
	if err := do(sw, b, a); err != nil {
		return err
	}
	return do(sw, a, b)
}
