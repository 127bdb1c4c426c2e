package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/warrennet/warren/internal/api"
)

// Pool hands out the node's Pod addresses from the blocks the node owns, one per family, and remembers them in a
// journal on disk. Addresses go round: a fresh one is never the one just freed while others are left.
//
// Writing an event is one write(2) without fsync. A killed agent loses nothing by it, because the kernel holds what
// was written; a power loss may lose the tail, but then every Pod is gone as well, which the boot id tells.
type Pool struct {
	mu        sync.Mutex
	journal   *journal
	spans     []*span // the node's blocks, in the order of the families and of their claiming
	records   map[api.Attachment]Record
	holder    map[netip.Addr]api.Attachment
	strangers map[netip.Addr]bool // of another network's Pods
	warn      []string
}

// PoolConfig says where a pool lives.
type PoolConfig struct {
	Dir string // state directory; the journal is Dir/pods.journal
	// BootID is the kernel's boot id; records of another boot are dropped, the cursors are kept.
	BootID string
	// Blocks are the node's blocks, the cluster's preferred family first. They may be set later.
	Blocks []netip.Prefix
}

// JournalName is the file in the state directory that holds the node's Pods.
const JournalName = "pods.journal"

// OpenPool reads the journal, or begins one.
func OpenPool(c PoolConfig) (*Pool, error) {
	if c.BootID == "" {
		return nil, errors.New("open the address pool: no boot id given")
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the address pool: %w", err)
	}
	j, state, err := openJournal(filepath.Join(c.Dir, JournalName), c.BootID)
	if err != nil {
		return nil, fmt.Errorf("open the address pool: %w", err)
	}
	p := &Pool{journal: j, records: state.records, holder: map[netip.Addr]api.Attachment{}, warn: state.problems}
	for at, r := range p.records {
		for _, a := range r.Addresses {
			p.holder[a] = at
		}
	}
	if err := p.SetBlocks(c.Blocks); err != nil {
		j.close()
		return nil, err
	}
	return p, nil
}

// Close ends the use of the journal file. Records stay.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.journal.close()
}

// Problems lists what was wrong with the journal when it was opened. A damaged file was set aside under the name
// that the message gives; every line that could be read was taken up.
func (p *Pool) Problems() []string { return slices.Clone(p.warn) }

// SetBlocks replaces the blocks that fresh addresses come from. Records with addresses elsewhere stay until released.
func (p *Pool) SetBlocks(blocks []netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.EqualFunc(p.spans, blocks, func(s *span, b netip.Prefix) bool { return s.block == b.Masked() }) {
		return nil
	}
	var spans []*span
	for _, b := range blocks {
		s, err := newSpan(b)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(spans, func(o *span) bool { return o.block.Overlaps(s.block) }); i >= 0 {
			return fmt.Errorf("block %s overlaps block %s", s.block, spans[i].block)
		}
		spans = append(spans, s)
	}
	p.spans = spans
	for a := range p.holder {
		p.mark(a, true)
	}
	for a := range p.strangers {
		p.mark(a, true)
	}
	for _, a := range p.journal.cursors {
		p.point(a)
	}
	return nil
}

// SetStrangers names the addresses of the blocks that Pods of another network hold, which this pool must not give away.
func (p *Pool) SetStrangers(list []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := map[netip.Addr]bool{}
	for _, a := range list {
		if _, ours := p.holder[a]; !ours {
			now[a] = true
		}
	}
	for a := range p.strangers {
		if _, ours := p.holder[a]; !now[a] && !ours {
			p.mark(a, false)
		}
	}
	for a := range now {
		p.mark(a, true)
	}
	p.strangers = now
}

// Reserve gives the attachment of r its addresses and writes the record down, not yet committed. A record that exists
// is returned as it is, with fresh false.
func (p *Pool) Reserve(r Record) (got Record, fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := p.records[r.Attachment]; ok {
		return have.clone(), false, nil
	}
	if err := r.check(); err != nil {
		return Record{}, false, err
	}
	if r.Addresses, err = p.choose(r.Requested); err != nil {
		return Record{}, false, err
	}
	r = r.clone()
	r.Committed = false
	if err := p.put(r, true); err != nil {
		return Record{}, false, err
	}
	return r.clone(), true, nil
}

// Commit marks a reservation as a standing interface.
func (p *Pool) Commit(at api.Attachment, mac string) (Record, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.records[at]
	if !ok {
		return Record{}, fmt.Errorf("commit %s: no address is reserved for it", Name(at))
	}
	r.Committed, r.MAC = true, mac
	if err := p.put(r, false); err != nil {
		return Record{}, err
	}
	return r.clone(), nil
}

// Adopt takes up a live interface that has no record, with the addresses it holds.
func (p *Pool) Adopt(r Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.records[r.Attachment]; ok {
		return fmt.Errorf("adopt %s: it has a record", Name(r.Attachment))
	}
	if err := r.check(); err != nil {
		return err
	}
	for _, a := range r.Addresses {
		if by, ok := p.holder[a]; ok {
			return &HeldError{a, by}
		}
	}
	r = r.clone()
	r.Committed = true
	return p.put(r, false)
}

// Release frees the addresses of an attachment; ok is false when there was no record.
func (p *Pool) Release(at api.Attachment) (r Record, ok bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok = p.records[at]
	if !ok {
		return Record{}, false, nil
	}
	if err := p.journal.append(event{Del: &at}, p.live); err != nil {
		return Record{}, false, fmt.Errorf("release %s: %w", Name(at), err)
	}
	delete(p.records, at)
	for _, a := range r.Addresses {
		delete(p.holder, a)
		p.mark(a, false)
	}
	return r, true, nil
}

// Get returns the record of an attachment.
func (p *Pool) Get(at api.Attachment) (Record, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.records[at]
	return r.clone(), ok
}

// Records returns all records, sorted by container id and interface.
func (p *Pool) Records() []Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live()
}

func (p *Pool) live() []Record {
	out := make([]Record, 0, len(p.records))
	for _, r := range p.records {
		out = append(out, r.clone())
	}
	slices.SortFunc(out, func(a, b Record) int {
		if c := strings.Compare(a.ContainerID, b.ContainerID); c != 0 {
			return c
		}
		return strings.Compare(a.IfName, b.IfName)
	})
	return out
}

// put writes a record down, and only then lets it count. A fresh one moves the cursors.
func (p *Pool) put(r Record, fresh bool) error {
	if err := p.journal.append(event{Put: &r, Fresh: fresh}, p.live); err != nil {
		return fmt.Errorf("record %s: %w", Name(r.Attachment), err)
	}
	p.records[r.Attachment] = r
	for _, a := range r.Addresses {
		p.holder[a] = r.Attachment
		p.mark(a, true)
	}
	for _, a := range p.journal.cursors {
		p.point(a)
	}
	return nil
}
