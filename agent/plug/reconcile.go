package plug

import (
	"errors"
	"fmt"
	"strings"

	"github.com/warrennet/warren/ipam"
)

// Report says what Reconcile found and did.
type Report struct {
	Released  []ipam.Record // records without an interface: DEL came while the agent was away, or the Pod's namespace died
	Undone    []ipam.Record // reservations that no living connection holds: the agent died during an ADD
	Adopted   []ipam.Record // interfaces without a record that say whose they are
	Strangers []string      // interfaces with our name that cannot be adopted, each with the reason
}

// Empty says that records and interfaces agree.
func (r Report) Empty() bool {
	return len(r.Released)+len(r.Undone)+len(r.Adopted)+len(r.Strangers) == 0
}

// Reconcile brings records and interfaces together. It never deletes an interface that a committed record or an
// unknown owner may stand behind, and keeps its hands off attachments with a call under way. Safe at any time; it
// succeeds on what it can do and joins the errors of the rest. Called before the first ADD is served, it also keeps the
// addresses of adopted Pods from being given out; later, the kernel refuses a second route to them.
func (s *Server) Reconcile() (Report, error) {
	links, err := s.Links.List()
	if err != nil {
		return Report{}, fmt.Errorf("list the Pods' interfaces: %w", err)
	}
	byName := map[string]Link{}
	for _, l := range links {
		byName[l.Name] = l
	}
	var out Report
	var errs []error
	for _, r := range s.Pool.Records() {
		_, live := byName[r.HostIfName]
		delete(byName, r.HostIfName)
		if (live && r.Committed) || s.busy(r.Attachment) {
			continue
		}
		if done, err := s.dropStale(r); err != nil {
			errs = append(errs, err)
		} else if done && r.Committed {
			out.Released = append(out.Released, r)
		} else if done {
			out.Undone = append(out.Undone, r)
		}
	}
	for _, l := range byName {
		s.adopt(l, &out)
	}
	if len(out.Released)+len(out.Adopted) > 0 {
		s.Changed()
	}
	return out, errors.Join(errs...)
}

// dropStale removes a record after a second look: the interface may have come up since the list was made.
func (s *Server) dropStale(r ipam.Record) (bool, error) {
	now, ok := s.Pool.Get(r.Attachment)
	if !ok || now.Committed != r.Committed || !now.Created.Equal(r.Created) {
		return false, nil
	}
	if r.Committed {
		if live, err := s.Links.Exists(r.HostIfName); err != nil || live {
			return false, err
		}
	}
	return true, s.undo(r)
}

// adopt makes a record for a live interface whose record was lost, so that nobody else gets its addresses.
func (s *Server) adopt(l Link, out *Report) {
	if l.Attachment.ContainerID == "" || l.Attachment.IfName == "" || len(l.Addresses) == 0 {
		out.Strangers = append(out.Strangers, l.Name+": does not say whose it is or has no address")
		return
	}
	if live, err := s.Links.Exists(l.Name); err != nil || !live || s.busy(l.Attachment) {
		return
	}
	r := ipam.Record{Attachment: l.Attachment, Addresses: l.Addresses, HostIfName: l.Name, Adopted: true,
		Created: s.now().UTC()}
	r.PodNamespace, r.PodName, _ = strings.Cut(l.Pod, "/")
	if _, ok := s.Pool.Get(l.Attachment); ok {
		return // an ADD ended in between
	}
	if err := s.Pool.Adopt(r); err != nil {
		out.Strangers = append(out.Strangers, l.Name+": "+err.Error())
		return
	}
	out.Adopted = append(out.Adopted, r)
}
