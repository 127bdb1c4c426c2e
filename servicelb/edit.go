package servicelb

import (
	"cmp"
	"net/netip"
	"slices"
)

// edit is a table in the making.
type edit struct {
	*Builder
	table  *Table
	fronts *draft[frontKey, *frontend]
	vips   *draft[netip.Addr, int]
}

func (b *Builder) edit() *edit {
	t := *b.last
	return &edit{b, &t, newDraft(&b.last.fronts), newDraft(&b.last.vips)}
}

func (e *edit) done() *Table {
	e.table.fronts, e.table.vips = e.fronts.cow, e.vips.cow
	e.table.steering = e.steer.done()
	return e.table
}

// enter puts a unit into the table.
func (e *edit) enter(n unitName, u *unit) {
	e.units[n], u.before = u, nil
	e.table.ejecting += b2i(len(u.records) > 0)
	for i, k := range u.keys {
		if old := e.fronts.get(k.hash(), k); old != nil {
			if e.rivals[k] == nil {
				e.rivals[k] = []*frontend{old}
			}
			e.rivals[k] = append(e.rivals[k], u.fronts[i])
		}
		e.settle(k, u.fronts[i])
		e.steer.count(e.table, k, u.fronts[i], 1)
	}
	for _, a := range u.vips {
		e.vips.put(stable(a, 0), a, e.vips.get(stable(a, 0), a)+1)
		e.steer.vip(e.table, a, 1)
	}
}

// withdraw takes a unit out of the table.
func (e *edit) withdraw(u *unit) {
	e.table.ejecting -= b2i(len(u.records) > 0)
	for i, k := range u.keys {
		if e.rivals[k] != nil {
			e.rivals[k] = slices.DeleteFunc(e.rivals[k], func(f *frontend) bool { return f == u.fronts[i] })
		}
		e.settle(k, nil)
		e.steer.count(e.table, k, u.fronts[i], -1)
	}
	for _, a := range u.vips {
		if n := e.vips.get(stable(a, 0), a) - 1; n > 0 {
			e.vips.put(stable(a, 0), a, n)
		} else {
			e.vips.remove(stable(a, 0), a)
		}
		e.steer.vip(e.table, a, -1)
	}
}

// settle decides who has an address and port: of several (externalIPs, host ports) the first by name; else only.
func (e *edit) settle(k frontKey, only *frontend) {
	if rivals := e.rivals[k]; len(rivals) > 0 {
		only = slices.MinFunc(rivals, func(a, b *frontend) int {
			return cmp.Or(cmp.Compare(a.kind/kindHostPort, b.kind/kindHostPort), cmp.Compare(a.name.Namespace, b.name.Namespace), cmp.Compare(a.name.Name, b.name.Name))
		})
		if len(rivals) == 1 {
			delete(e.rivals, k)
		}
	}
	if only == nil {
		e.fronts.remove(k.hash(), k)
	} else {
		e.fronts.put(k.hash(), k, only)
	}
}
