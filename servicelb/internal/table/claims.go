package table

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/ownership"
	"github.com/warrennet/warren/servicelb/internal/stable"
)

// Refusal is an address, or a port of an address, that an object claims and does not have.
type Refusal struct {
	Object model.ObjectName
	Class  ownership.Class
	Addr   netip.Addr     // zero: every address of the node
	Port   uint16         // 0: every port
	Proto  model.Protocol // 0: every protocol
	Reason string
}

// At is the address and port as text.
func (r *Refusal) At() string {
	switch {
	case r.Port == 0:
		return r.Addr.String()
	case !r.Addr.IsValid():
		return fmt.Sprintf("port %d/%s", r.Port, r.Proto)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(r.Addr, r.Port), r.Proto)
}

// ProtocolText is the protocol as text, "" for every protocol.
func (r *Refusal) ProtocolText() string {
	if r.Proto == 0 {
		return ""
	}
	return r.Proto.String()
}

func (r *Refusal) compare(o *Refusal) int {
	return cmp.Or(r.Object.Compare(o.Object), cmp.Compare(r.Class, o.Class), r.Addr.Compare(o.Addr), cmp.Compare(r.Proto, o.Proto),
		cmp.Compare(r.Port, o.Port))
}

// Refusals lists what objects claim and do not have, sorted by object. The caller must not change it.
func (t *Table) Refusals() []Refusal { return t.refusals }

// refuse returns why no object may claim an address, or "".
func (t *Table) refuse(c ownership.Class, a netip.Addr) string {
	switch {
	case t.local[a]:
		return "it is an address of this node"
	case t.peers[a]:
		return "it is an address of another node"
	}
	return t.self.Ownership.RefuseAddress(c, a)
}

func (u *unit) refuse(r Refusal) {
	if !slices.Contains(u.refusals, r) {
		u.refusals = append(u.refusals, r)
	}
}

// wholeClaim is a claim of all ports of an address.
type wholeClaim struct {
	addr  netip.Addr
	class ownership.Class
}

// holders counts the Services that hold all ports of an address, as a ClusterIP and as a load balancer address.
type holders [2]int32

func (h *holders) add(c ownership.Class, by int32) { h[b2i(c == ownership.LoadBalancer)] += by }

// class is the class of the address: a claim of a later class has no effect there.
func (h holders) class() ownership.Class {
	switch {
	case h[0] > 0:
		return ownership.ClusterIP
	case h[1] > 0:
		return ownership.LoadBalancer
	}
	return ownership.HostPort
}

// claims are the claims whose owner depends on other objects.
type claims struct {
	// contested are the frontends that claim a key, where the table does not have the only one of them.
	contested map[Key][]*Frontend
	// dependent are the keys with claims that a claim of the whole address may precede.
	dependent map[netip.Addr]map[Key]int
	refused   map[unitName][]Refusal
	external  []ExternalPort // of the last table
	dirty     bool           // external and the table's refusals are outdated
}

func newClaims() claims {
	return claims{contested: map[Key][]*Frontend{}, dependent: map[netip.Addr]map[Key]int{}, refused: map[unitName][]Refusal{}, dirty: true}
}

func (c *claims) setRefusals(n unitName, list []Refusal) {
	switch {
	case len(list) > 0:
		c.refused[n], c.dirty = list, true
	case c.refused[n] != nil:
		delete(c.refused, n)
		c.dirty = true
	}
}

func isDependent(f *Frontend) bool {
	return f.Claim.Class == ownership.ExternalIP || f.Claim.Class == ownership.LoadBalancer
}

func (c *claims) countDependent(k Key, f *Frontend, by int) {
	if !isDependent(f) {
		return
	}
	keys := c.dependent[k.Addr]
	if keys == nil {
		keys = map[Key]int{}
		c.dependent[k.Addr] = keys
	}
	addCount(keys, k, by)
	if len(keys) == 0 {
		delete(c.dependent, k.Addr)
	}
	c.dirty = true
}

// addWhole counts a claim of a whole address. If that changes the class of the address, claims of its ports are decided again.
func (p *patch) addWhole(w wholeClaim, by int32) {
	hash := stable.Hash(w.addr, 0)
	before := p.serviceAddrs.get(hash, w.addr)
	after := before
	if after.add(w.class, by); after == (holders{}) {
		p.serviceAddrs.remove(hash, w.addr)
	} else {
		p.serviceAddrs.put(hash, w.addr, after)
	}
	p.redirects.addServiceAddr(p.table, w.addr, int(by))
	if before.class() != after.class() {
		for k := range p.claims.dependent[w.addr] {
			p.decide(k, p.claimants(k))
		}
	}
}

// claimants are the frontends that claim a key.
func (p *patch) claimants(k Key) []*Frontend {
	if list := p.claims.contested[k]; list != nil {
		return list
	}
	if f := p.frontends.get(k.hash(), k); f != nil {
		return []*Frontend{f}
	}
	return nil
}

func (p *patch) addClaim(k Key, f *Frontend) {
	p.claims.countDependent(k, f, 1)
	p.decide(k, append(slices.Clone(p.claimants(k)), f))
}

func (p *patch) removeClaim(k Key, f *Frontend) {
	p.claims.countDependent(k, f, -1)
	p.decide(k, slices.DeleteFunc(slices.Clone(p.claimants(k)), func(x *Frontend) bool { return x == f }))
}

// decide gives a key to the first of its claims.
func (p *patch) decide(k Key, list []*Frontend) {
	var owner *Frontend
	whole := p.serviceAddrs.get(stable.Hash(k.Addr, 0), k.Addr).class()
	for _, f := range list {
		if f.Claim.Class <= whole && (owner == nil || f.Claim.Compare(owner.Claim) < 0) {
			owner = f
		}
	}
	if owner == nil {
		p.frontends.remove(k.hash(), k)
	} else {
		p.frontends.put(k.hash(), k, owner)
	}
	if len(list) > 1 || len(list) == 1 && owner == nil {
		p.claims.contested[k], p.claims.dirty = list, true
	} else if p.claims.contested[k] != nil {
		delete(p.claims.contested, k)
		p.claims.dirty = true
	}
}

// finishClaims updates what the table reports about claims.
func (p *patch) finishClaims() {
	if !p.claims.dirty {
		return
	}
	p.claims.dirty = false
	var out []Refusal
	for list := range maps.Values(p.claims.refused) {
		out = append(out, list...)
	}
	for k, list := range p.claims.contested {
		owner := p.frontends.get(k.hash(), k)
		for _, f := range list {
			if f != owner {
				out = append(out, Refusal{Object: f.Service, Class: f.Claim.Class, Addr: k.Addr, Port: k.Port,
					Proto: model.Protocol(k.Proto), Reason: p.lost(k, owner)})
			}
		}
	}
	slices.SortFunc(out, func(a, b Refusal) int { return a.compare(&b) })
	p.table.refusals = slices.Compact(out)
	p.claims.external = p.externalPorts()
}

// lost is why a claim of a key lost against the owner of the key, or of the whole address if that is nil.
func (p *patch) lost(k Key, owner *Frontend) string {
	if owner == nil {
		return fmt.Sprintf("the address is the %s of another Service", p.serviceAddrs.get(stable.Hash(k.Addr, 0), k.Addr).class())
	}
	return fmt.Sprintf("%s has it as a %s", owner.Service, owner.Claim.Class)
}

// externalPorts are the external IPs and ports that Services have.
func (p *patch) externalPorts() (out []ExternalPort) {
	for _, keys := range p.claims.dependent {
		for k := range keys {
			if f := p.frontends.get(k.hash(), k); f != nil && f.Claim.Class == ownership.ExternalIP {
				out = append(out, ExternalPort{k.Addr, Port{k.Proto, k.Port}})
			}
		}
	}
	slices.SortFunc(out, func(a, b ExternalPort) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port.Port, b.Port.Port))
	})
	return out
}
