package lab

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Cut stops every frame between two machines, both ways, as a broken cable would. Heal lets them through again.
//
// It is a classic BPF filter per direction on the receiver's switch port that drops the sender's link address: that
// needs no kernel module, and neither machine can see it.
func (l *Lab) Cut(a, b string) error {
	return l.bothWays(a, b, func(sw int, port, from string) error {
		if _, err := l.output(sw, "tc", "qdisc", "replace", "dev", port, "clsact"); err != nil {
			return err
		}
		m := mac(from)
		prog := fmt.Sprintf("4,32 0 0 8,21 0 1 %d,6 0 0 2,6 0 0 4294967295", binary.BigEndian.Uint32(m[2:]))
		_, err := l.output(sw, "tc", "filter", "replace", "dev", port, "egress", "pref", pref(from), "handle", "1", "bpf", "da", "bytecode", prog)
		return err
	})
}

// Heal undoes Cut. Two machines that are not cut are healed.
func (l *Lab) Heal(a, b string) error {
	return l.bothWays(a, b, func(sw int, port, from string) error {
		_, err := l.output(sw, "tc", "filter", "del", "dev", port, "egress", "pref", pref(from))
		if err != nil && (strings.Contains(err.Error(), "No such file") || strings.Contains(err.Error(), "Cannot find") || strings.Contains(err.Error(), "not found") ||
			strings.Contains(err.Error(), "Invalid argument") || strings.Contains(err.Error(), "does not exist")) {
			return nil
		}
		return err
	})
}

// HealAll undoes every Cut.
func (l *Lab) HealAll() error {
	sw, err := l.hold(switchName)
	if err != nil {
		return err
	}
	for _, m := range append(l.NodeNames(), l.etcdNames()...) {
		out, err := l.output(sw, "tc", "qdisc", "show", "dev", m, "clsact")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "clsact") {
			continue
		}
		if _, err := l.output(sw, "tc", "qdisc", "del", "dev", m, "clsact"); err != nil {
			return err
		}
	}
	return nil
}

func pref(from string) string { return strconv.Itoa(int(hostNumber(from))) }

func (l *Lab) bothWays(a, b string, do func(sw int, port, from string) error) error {
	for _, m := range []string{a, b} {
		if _, err := os.Stat(l.machineDir(m)); m == "" || m == switchName || err != nil {
			return fmt.Errorf("lab %s has no machine %q; there are %s", l.Name, m, strings.Join(append(l.NodeNames(), l.etcdNames()...), ", "))
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
