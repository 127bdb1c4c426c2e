package ipam

import (
	"fmt"

	"github.com/warrennet/warren/internal/api"
)

// Change rewrites what a record says of its Pod. What the pool itself goes by (attachment, addresses, commit) stays as
// it was, whatever edit does to it. The record that edit gets is its own, but for the Probe, which it may only replace.
func (p *Pool) Change(at api.Attachment, edit func(*Record)) (Record, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, ok := p.records[at]
	if !ok {
		return Record{}, fmt.Errorf("change %s: it has no record", Name(at))
	}
	r := was.clone()
	edit(&r)
	r.Attachment, r.Addresses, r.Requested, r.HostIfName, r.Committed = was.Attachment, was.Addresses, was.Requested, was.HostIfName, was.Committed
	if err := p.put(r, false); err != nil {
		return Record{}, err
	}
	return r.clone(), nil
}
