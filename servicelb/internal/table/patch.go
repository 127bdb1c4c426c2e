package table

import (
	"maps"
	"net/netip"
	"slices"
)

// patch is a table that is being made from the last one by removing and adding units.
type patch struct {
	*Builder
	table        *Table
	frontends    *mapDraft[Key, *Frontend]
	serviceAddrs *mapDraft[netip.Addr, holders]
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
	p.finishClaims()
	p.table.redirects.ExternalPorts = p.claims.external
	p.table.problems = slices.Sorted(maps.Values(p.problems))
	return p.table
}

// add puts a unit into the table.
func (p *patch) add(n unitName, u *unit) {
	p.units[n], u.previous = u, nil
	delete(p.problems, n)
	if u.problem != "" {
		p.problems[n] = u.problem
	}
	p.table.ejecting += b2i(len(u.records) > 0)
	p.refusedChanged = p.refusedChanged || len(u.refused) > 0
	p.claims.setRefusals(n, u.refusals)
	for _, w := range u.serviceAddrs {
		p.addWhole(w, 1)
	}
	for i, k := range u.keys {
		p.addClaim(k, u.frontends[i])
		p.redirects.addFrontend(p.table, k, u.frontends[i], 1)
	}
}

// remove takes a unit out of the table.
func (p *patch) remove(n unitName, u *unit) {
	p.table.ejecting -= b2i(len(u.records) > 0)
	p.refusedChanged = p.refusedChanged || len(u.refused) > 0
	p.claims.setRefusals(n, nil)
	for i, k := range u.keys {
		p.removeClaim(k, u.frontends[i])
		p.redirects.addFrontend(p.table, k, u.frontends[i], -1)
	}
	for _, w := range u.serviceAddrs {
		p.addWhole(w, -1)
	}
}
