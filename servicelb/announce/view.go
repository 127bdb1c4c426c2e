package announce

import (
	"net/netip"
	"slices"
)

// View is what a node sees of the announcements. It is immutable.
type View struct {
	Addresses []Seen // sorted by address
	Nodes     []Node // the others, sorted by name
	Links     []string
	Stats     Stats
}

// Seen is one address.
type Seen struct {
	Addr  netip.Addr
	Owner string // the node that announces it, "" for none
	Epoch uint64
	State string // of this node: idle, probing, waiting, announcing
	Links []string
	Note  string // what is in the way, "" for nothing
}

// Node is another node.
type Node struct {
	Name    string
	Healthy bool
}

var stateNames = map[state]string{idle: "idle", probing: "probing", waiting: "waiting", announcing: "announcing"}

func (l *loop) show() {
	c := l.core
	v := &View{Stats: c.stats}
	for n, m := range c.members {
		v.Nodes = append(v.Nodes, Node{n, m.healthy})
		if m.healthy {
			v.Stats.Healthy++
		}
	}
	slices.SortFunc(v.Nodes, func(a, b Node) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	for _, x := range c.lans {
		v.Links = append(v.Links, x.name)
	}
	for _, k := range c.order {
		a := c.addrs[k]
		r := c.rival(a)
		s := Seen{Addr: k, Owner: r.node, Epoch: r.epoch, State: stateNames[a.state], Links: a.lans, Note: a.note}
		if a.state == announcing {
			s.Owner, s.Epoch = c.me, a.epoch
			v.Stats.Announced++
		}
		if s.Owner == "" && s.Note == "" && len(c.on(k)) == 0 {
			s.Note = "it is no host address of any link's subnet here"
		}
		v.Addresses = append(v.Addresses, s)
	}
	l.tell(l.view.Swap(v), v)
}

// tell logs which addresses this node began or ceased to announce.
func (l *loop) tell(old, now *View) {
	was := map[netip.Addr]bool{}
	for _, s := range old.Addresses {
		was[s.Addr] = s.State == stateNames[announcing]
	}
	for _, s := range now.Addresses {
		if here := s.State == stateNames[announcing]; here != was[s.Addr] {
			if here {
				l.log.Info("announcing", "address", s.Addr, "epoch", s.Epoch, "links", s.Links)
			} else {
				l.log.Info("announcing no more", "address", s.Addr, "now", s.Owner, "note", s.Note)
			}
		}
		delete(was, s.Addr)
	}
	for a, here := range was {
		if here {
			l.log.Info("announcing no more", "address", a, "now", "", "note", "")
		}
	}
}
