package ipam

import (
	"fmt"

	"github.com/warrennet/warren/internal/api"
)

// Change edits a record: labels, port mappings, the probe and other data of the Pod. Attachment, addresses, host interface
// and Committed keep their values, whatever edit does to them. edit gets a copy; it may replace the Probe, not write to it.
func (p *Pool) Change(at api.Attachment, edit func(*Record)) (Record, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, ok := p.records[at]
	if !ok {
		return Record{}, fmt.Errorf("change record of %s: it has none", Name(at))
	}
	r := old.clone()
	edit(&r)
	r.Attachment, r.HostIfName, r.Committed = old.Attachment, old.HostIfName, old.Committed
	r.Addresses, r.Requested = old.Addresses, old.Requested
	if err := p.put(r, false); err != nil {
		return Record{}, err
	}
	return r.clone(), nil
}
