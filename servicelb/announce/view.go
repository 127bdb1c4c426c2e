package announce

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
)

// View is the state of all announcements as received by this node. It is immutable.
type View struct {
	Addresses []AddressView // sorted by address
	Nodes     []NodeView    // other nodes, sorted by name
	Links     []string
	Stats     Stats
}

// AddressView is the state of one address.
type AddressView struct {
	Addr  netip.Addr
	Owner string // the node that announces it, "" for none
	Epoch uint64
	State string // of this node: idle, probing, waiting, announcing
	Links []string
	Note  string // why it is not announced, or a duplicate; "" for nothing
}

// NodeView is the state of another node. Healthy means that its heartbeats arrive (see Timing).
type NodeView struct {
	Name    string
	Healthy bool
}

var stateNames = map[state]string{idle: "idle", probing: "probing", waiting: "waiting", announcing: "announcing"}

// publish replaces the view and logs what has changed.
func (l *runner) publish() {
	c := l.core
	v := &View{Stats: c.stats}
	for n, m := range c.members {
		v.Nodes = append(v.Nodes, NodeView{n, m.healthy})
		if m.healthy {
			v.Stats.Healthy++
		}
	}
	slices.SortFunc(v.Nodes, func(a, b NodeView) int { return strings.Compare(a.Name, b.Name) })
	for _, x := range c.links {
		v.Links = append(v.Links, x.name)
	}
	for _, k := range c.order {
		a := c.addresses[k]
		r := c.strongestClaim(a)
		s := AddressView{Addr: k, Owner: r.node, Epoch: r.epoch, State: stateNames[a.state], Links: a.links, Note: a.note}
		if a.state == announcing {
			s.Owner, s.Epoch = c.node, a.epoch
			v.Stats.Announced++
		}
		if s.Owner == "" && s.Note == "" && len(c.linksFor(k)) == 0 {
			s.Note = "not a host address in the subnet of any link of this node"
		}
		v.Addresses = append(v.Addresses, s)
	}
	l.logChanges(l.view.Swap(v), v)
}

// logChanges logs the addresses that this node began or stopped to announce.
func (l *runner) logChanges(old, now *View) {
	was := map[netip.Addr]bool{}
	for _, s := range old.Addresses {
		was[s.Addr] = s.State == stateNames[announcing]
	}
	for _, s := range now.Addresses {
		if here := s.State == stateNames[announcing]; here != was[s.Addr] {
			if here {
				l.log.Info("started announcing address", "address", s.Addr, "epoch", s.Epoch, "interfaces", s.Links)
			} else {
				l.log.Info("stopped announcing address", stopAttrs(s)...)
			}
		}
		delete(was, s.Addr)
	}
	for a, here := range was {
		if here {
			l.log.Info("stopped announcing address", "address", a, "reason", "address removed")
		}
	}
}

// stopAttrs are the log attributes of an address that this node no longer announces. node is left out if no node announces it.
func stopAttrs(s AddressView) []any {
	reason := s.Note
	switch {
	case reason != "":
	case s.Owner != "":
		reason = "another node announces the address"
	default:
		reason = "this node is no longer a candidate"
	}
	out := []any{"address", s.Addr, "reason", reason}
	if s.Owner != "" {
		out = append(out, slog.String("node", s.Owner))
	}
	return out
}
