package conntrack

import "fmt"

// Check compares everything that is derived from the flows (counters per client, backend and masquerade port, slots in use, the index)
// with the flows. It is for tests, while no packet passes.
func (t *Table) Check() error {
	var clients, clientsHalfOpen, loads, flows, halfOpen, masqueraded int32
	for i := range t.clients.buckets {
		clients += t.clients.buckets[i].all.Load()
		clientsHalfOpen += t.clients.buckets[i].halfOpen.Load()
	}
	for i := range t.loads {
		loads += t.loads[i].Load()
	}
	for i := range t.slots {
		if s := t.slots[i].Status(); s.Live() {
			flows++
			if s.HalfOpen() {
				halfOpen++
			}
			if t.slots[i].Has(FlagNodeSource) {
				masqueraded++
			}
		}
	}
	var ports int32
	for i := range t.ports {
		ports += t.ports[i].Load()
	}
	var listed []Flow
	for shard := range Shards {
		listed = t.AppendFlows(listed, shard, 0, nil)
	}
	if clients != flows || clientsHalfOpen != halfOpen || loads != flows || t.Len() != int(flows) || len(listed) != int(flows) {
		return fmt.Errorf("%d flows, %d half-open; counted per client: %d, %d; per backend: %d; slots in use: %d; listed: %d",
			flows, halfOpen, clients, clientsHalfOpen, loads, t.Len(), len(listed))
	}
	if ports != 2*masqueraded { // counted per destination, and per destination and client
		return fmt.Errorf("%d flows with a masquerade port, counted: %d", masqueraded, ports/2)
	}
	return nil
}
