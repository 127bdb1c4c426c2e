package cniserver

import (
	"errors"
	"fmt"
	"strings"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/ipam"
)

// Report lists the differences that Reconcile found.
type Report struct {
	Released []ipam.Record // records without an interface: DEL came without an agent, or the Pod's namespace was deleted
	Undone   []ipam.Record // reservations without a connection: the agent ended during an ADD
	Adopted  []ipam.Record // interfaces without a record whose alias names their attachment; each got a record
	Unknown  []string      // interfaces with warren's name prefix that cannot be adopted, each with the reason
}

// Empty reports whether records and interfaces agree.
func (r Report) Empty() bool {
	return len(r.Released)+len(r.Undone)+len(r.Adopted)+len(r.Unknown) == 0
}

// Reconcile makes records and interfaces agree: it releases records without an interface and adopts interfaces without a
// record. It may be called at any time. It continues after single failures and joins their errors.
//
// It never deletes an interface of a committed record or of an unknown owner, and it leaves attachments with a call in
// progress alone. Call it before the first ADD is served: until then the pool may assign the addresses of Pods that are to
// be adopted, and such an ADD fails, because the kernel refuses a second route to the address.
func (s *Server) Reconcile() (Report, error) {
	links, err := s.Links.List()
	if err != nil {
		return Report{}, fmt.Errorf("list the interfaces of Pods: %w", err)
	}
	byName := map[string]veth.Link{}
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

// dropStale removes a record unless it changed, or its interface was created, since the list was made.
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

// adopt makes a record for an interface without one, so that no other Pod gets its addresses.
func (s *Server) adopt(l veth.Link, out *Report) {
	if l.Attachment.ContainerID == "" || l.Attachment.IfName == "" || len(l.Addresses) == 0 {
		out.Unknown = append(out.Unknown, l.Name+": its alias names no attachment, or it has no address")
		return
	}
	if live, err := s.Links.Exists(l.Name); err != nil || !live || s.busy(l.Attachment) {
		return
	}
	r := ipam.Record{Attachment: l.Attachment, Addresses: l.Addresses, HostIfName: l.Name, Adopted: true,
		Created: s.now().UTC()}
	r.PodNamespace, r.PodName, _ = strings.Cut(l.Pod, "/")
	if _, ok := s.Pool.Get(l.Attachment); ok {
		return // an ADD was committed since the list was made
	}
	if err := s.Pool.Adopt(r); err != nil {
		out.Unknown = append(out.Unknown, l.Name+": "+err.Error())
		return
	}
	out.Adopted = append(out.Adopted, r)
}
