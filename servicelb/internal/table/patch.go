package table

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/servicelb/internal/stable"
)

// patch is a table that is being made from the last one by removing and adding units.
type patch struct {
	*Builder
	table        *Table
	frontends    *mapDraft[Key, *Frontend]
	serviceAddrs *mapDraft[netip.Addr, int]
	// refusedChanged: a unit with refused endpoints was added or removed.
	refusedChanged bool
}

func (b *Builder) newPatch() *patch {
	t := *b.last
	t.balanced = b.balanced
	return &patch{Builder: b, table: &t, frontends: newMapDraft(&b.last.frontends), serviceAddrs: newMapDraft(&b.last.serviceAddrs)}
}

func (p *patch) finish() *Table {
	p.table.frontends, p.table.serviceAddrs = p.frontends.persistentMap, p.serviceAddrs.persistentMap
	p.table.redirects = p.redirects.redirects()
	p.collectRefused()
	return p.table
}

// add puts a unit into the table.
func (p *patch) add(n unitName, u *unit) {
	p.units[n], u.previous = u, nil
	p.table.ejecting += b2i(len(u.records) > 0)
	p.refusedChanged = p.refusedChanged || len(u.refused) > 0
	for i, k := range u.keys {
		if old := p.frontends.get(k.hash(), k); old != nil {
			if p.conflicts[k] == nil {
				p.conflicts[k] = []*Frontend{old}
			}
			p.conflicts[k] = append(p.conflicts[k], u.frontends[i])
		}
		p.assign(k, u.frontends[i])
		p.redirects.addFrontend(p.table, k, u.frontends[i], 1)
	}
	for _, a := range u.serviceAddrs {
		p.serviceAddrs.put(stable.Hash(a, 0), a, p.serviceAddrs.get(stable.Hash(a, 0), a)+1)
		p.redirects.addServiceAddr(p.table, a, 1)
	}
}

// remove takes a unit out of the table.
func (p *patch) remove(u *unit) {
	p.table.ejecting -= b2i(len(u.records) > 0)
	p.refusedChanged = p.refusedChanged || len(u.refused) > 0
	for i, k := range u.keys {
		if p.conflicts[k] != nil {
			p.conflicts[k] = slices.DeleteFunc(p.conflicts[k], func(f *Frontend) bool { return f == u.frontends[i] })
		}
		p.assign(k, nil)
		p.redirects.addFrontend(p.table, k, u.frontends[i], -1)
	}
	for _, a := range u.serviceAddrs {
		hash := stable.Hash(a, 0)
		if n := p.serviceAddrs.get(hash, a) - 1; n > 0 {
			p.serviceAddrs.put(hash, a, n)
		} else {
			p.serviceAddrs.remove(hash, a)
		}
		p.redirects.addServiceAddr(p.table, a, -1)
	}
}

// assign decides which frontend has an address and port. Where several claim it (externalIPs, host ports), precedes
// orders them; otherwise it is only, or none if that is nil.
func (p *patch) assign(k Key, only *Frontend) {
	if claims := p.conflicts[k]; len(claims) > 0 {
		only = slices.MinFunc(claims, precedes)
		if len(claims) == 1 {
			delete(p.conflicts, k)
		}
	}
	if only == nil {
		p.frontends.remove(k.hash(), k)
	} else {
		p.frontends.put(k.hash(), k, only)
	}
}

// precedes orders frontends that claim the same address and port: Services before host ports, then by name.
func precedes(a, b *Frontend) int {
	return cmp.Or(cmp.Compare(b2i(a.Kind == KindHostPort), b2i(b.Kind == KindHostPort)), a.Service.Compare(b.Service))
}
