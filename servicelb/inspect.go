package servicelb

import "github.com/warrennet/warren/servicelb/internal/conntrack"

// Flows returns at most limit flows (0: all) for which filter returns true. A nil filter selects all.
func (b *Balancer) Flows(filter func(Flow) bool, limit int) []Flow {
	var out, part []Flow
	for shard := range conntrack.Shards {
		part = b.flows.AppendFlows(part[:0], shard, b.now(), b.offloads.IsArmed)
		for _, f := range part {
			if filter != nil && !filter(f) {
				continue
			}
			if out = append(out, f); len(out) == limit {
				return out
			}
		}
	}
	return out
}
