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

// Pool assigns Pod addresses from the blocks of this node, one per family, and persists them in a journal. A Pool is safe
// for concurrent use; the journal is its alone.
//
// Addresses are assigned in ascending order, and from the start again after the last one. So an address that was just
// released is assigned last.
//
// An event is one write(2) without fsync. A killed agent loses nothing, because the kernel holds the written data. A power
// loss may lose the end of the journal, but then no Pod survives either; the boot id shows it.
type Pool struct {
	mu        sync.Mutex
	journal   *journal
	spans     []*span // the node's blocks, by family in the cluster's order, then in the order of their claims
	records   map[api.Attachment]Record
	holder    map[netip.Addr]api.Attachment
	unmanaged map[netip.Addr]bool // addresses of unmanaged Pods
	problems  []string
}

// PoolConfig holds the parameters of a Pool. Dir and BootID are required.
type PoolConfig struct {
	Dir string // state directory; the journal is Dir/pods.journal
	// BootID is the kernel's boot id. Records of another boot are dropped; the position in each block is kept.
	BootID string
	// Blocks are the node's blocks, the cluster's preferred family first. SetBlocks may set them later.
	Blocks []netip.Prefix
}

// JournalName is the name of the journal in the state directory.
const JournalName = "pods.journal"

// OpenPool reads the journal or creates it. Problems lists what was wrong with it.
func OpenPool(c PoolConfig) (*Pool, error) {
	if c.BootID == "" {
		return nil, errors.New("open address pool: BootID is empty, expected the kernel's boot id")
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open address pool: %w", err)
	}
	j, state, err := openJournal(filepath.Join(c.Dir, JournalName), c.BootID)
	if err != nil {
		return nil, fmt.Errorf("open address pool: %w", err)
	}
	p := &Pool{journal: j, records: state.records, holder: map[netip.Addr]api.Attachment{}, problems: state.problems}
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

// Close closes the journal. The records remain on disk.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.journal.close()
}

// Problems lists what was wrong with the journal when it was opened. A copy of a damaged journal is kept in the file that
// the problem names. Every valid line was read.
func (p *Pool) Problems() []string { return slices.Clone(p.problems) }

// SetBlocks replaces the blocks from which addresses are assigned. Records with addresses of other blocks remain until
// they are released.
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
	for a := range p.unmanaged {
		p.mark(a, true)
	}
	for _, a := range p.journal.cursors {
		p.moveCursor(a)
	}
	return nil
}

// SetUnmanaged replaces the list of addresses of unmanaged Pods, which this pool must not assign.
func (p *Pool) SetUnmanaged(list []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := map[netip.Addr]bool{}
	for _, a := range list {
		if _, held := p.holder[a]; !held {
			now[a] = true
		}
	}
	for a := range p.unmanaged {
		if _, held := p.holder[a]; !now[a] && !held {
			p.mark(a, false)
		}
	}
	for a := range now {
		p.mark(a, true)
	}
	p.unmanaged = now
}

// Reserve assigns addresses to the attachment of r and persists the record, not yet committed: those in r.Requested, else
// free ones. An attachment that has a record already gets that one unchanged, with isNew false.
func (p *Pool) Reserve(r Record) (got Record, isNew bool, err error) {
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

// Commit records that the interface of a reservation is configured, with the MAC of the Pod's end.
func (p *Pool) Commit(at api.Attachment, mac string) (Record, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.records[at]
	if !ok {
		return Record{}, fmt.Errorf("commit %s: it has no reservation", Name(at))
	}
	r.Committed, r.MAC = true, mac
	if err := p.put(r, false); err != nil {
		return Record{}, err
	}
	return r.clone(), nil
}

// Adopt makes a committed record for an interface that exists without one, with the addresses that it has.
func (p *Pool) Adopt(r Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.records[r.Attachment]; ok {
		return fmt.Errorf("adopt %s: it has a record already", Name(r.Attachment))
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

// put persists a record, then applies it. isNew moves the cursors.
func (p *Pool) put(r Record, isNew bool) error {
	if err := p.journal.append(event{Put: &r, Fresh: isNew}, p.live); err != nil {
		return fmt.Errorf("write record of %s: %w", Name(r.Attachment), err)
	}
	p.records[r.Attachment] = r
	for _, a := range r.Addresses {
		p.holder[a] = r.Attachment
		p.mark(a, true)
	}
	for _, a := range p.journal.cursors {
		p.moveCursor(a)
	}
	return nil
}
