package cniserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// claimWait bounds how long a call waits for the end of another call for the same attachment.
const claimWait = 3 * time.Second

// add handles ADD: it reserves addresses for the life of the connection.
func (s *Server) add(r *request) (any, error) {
	var q api.AddRequest
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if reason := s.notReady(); reason != "" {
		return nil, &api.Error{Code: api.CodeTryAgain, Message: "the agent cannot attach Pods yet", Details: reason}
	}
	if err := s.HostPorts(q.PortMappings); err != nil {
		return nil, &api.Error{Code: api.CodeHostPort, Message: fmt.Sprintf("attach %s: %v", ipam.Name(q.Attachment), err)}
	}
	ses, err := s.claim(r, q.Attachment)
	if err != nil {
		return nil, err
	}
	rec, err := s.reserve(r.Context(), q)
	if err != nil {
		s.release(q.Attachment, ses)
		return nil, err
	}
	s.mu.Lock()
	ses.pending = &rec
	s.mu.Unlock()
	return s.reply(rec), nil
}

// reserve makes the record of an ADD. A stale record of the attachment is replaced. An attachment whose interface exists
// is refused.
func (s *Server) reserve(ctx context.Context, q api.AddRequest) (ipam.Record, error) {
	name := api.HostIfName(q.Attachment)
	if old, ok := s.Pool.Get(q.Attachment); ok {
		if err := s.clearStale(old); err != nil {
			return ipam.Record{}, err
		}
	} else if live, err := s.Links.Exists(name); err != nil {
		return ipam.Record{}, err
	} else if live {
		return ipam.Record{}, &api.Error{Code: api.CodeAttached,
			Message: fmt.Sprintf("%s has the interface %s on the node and no record: call DEL first", ipam.Name(q.Attachment), name)}
	}
	return s.fromPool(ctx, ipam.Record{Attachment: q.Attachment, Network: q.Network, Netns: q.Netns,
		PodNamespace: q.PodNamespace, PodName: q.PodName, PodUID: q.PodUID, Requested: q.IPs, HostIfName: name,
		MAC: q.MAC, Labels: q.Labels, DNS: q.DNS, PortMappings: q.PortMappings, Created: s.now().UTC().Truncate(time.Second)})
}

// fromPool reserves addresses. When the pool is full, it requests another block and tries a second time.
func (s *Server) fromPool(ctx context.Context, want ipam.Record) (ipam.Record, error) {
	rec, _, err := s.Pool.Reserve(want)
	var full *ipam.FullError
	if s.More == nil || !errors.As(err, &full) {
		return rec, err
	}
	if noRoom := s.More(ctx); noRoom != nil {
		return rec, &api.Error{Code: api.CodeFull, Message: err.Error(), Details: noRoom.Error()}
	}
	rec, _, err = s.Pool.Reserve(want)
	return rec, err
}

// clearStale removes a record that has no interface.
func (s *Server) clearStale(old ipam.Record) error {
	if old.Committed {
		live, err := s.Links.Exists(old.HostIfName)
		if err != nil {
			return err
		}
		if live {
			return &api.Error{Code: api.CodeAttached, Message: fmt.Sprintf("%s is attached already: host interface %s, addresses %v",
				ipam.Name(old.Attachment), old.HostIfName, old.Addresses)}
		}
	}
	return s.undo(old)
}

func (s *Server) reply(r ipam.Record) api.AddReply {
	return api.AddReply{Addresses: r.Addresses, HostIfName: r.HostIfName, MTU: s.MTU(), Table: s.Table,
		Protocol: s.Protocol, DNS: s.DNS(r.PodNamespace)}
}

// commit ends an ADD: it turns the reservation of this connection into a record.
func (s *Server) commit(r *request) (any, error) {
	var q api.CommitRequest
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	ses := sessionOf(r)
	if !s.holds(ses, q.Attachment) {
		return nil, &api.Error{Code: api.CodeTryAgain,
			Message: "commit " + ipam.Name(q.Attachment) + ": this connection holds no reservation for it"}
	}
	if _, err := s.Pool.Commit(q.Attachment, q.MAC); err != nil {
		return nil, err
	}
	s.release(q.Attachment, ses)
	s.Changed()
	s.Added(s.now().Sub(ses.began))
	return struct{}{}, nil
}

// del handles DEL: it deletes the interface, then the record. Without a record it deletes the interface by its derived
// name.
func (s *Server) del(r *request) (any, error) {
	var q api.DelRequest
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	ses := sessionOf(r)
	if !s.holds(ses, q.Attachment) { // a failed ADD releases its own reservation
		var err error
		if ses, err = s.claim(r, q.Attachment); err != nil {
			return nil, err
		}
	}
	defer s.release(q.Attachment, ses)
	rec, ok := s.Pool.Get(q.Attachment)
	if !ok {
		return api.DelReply{}, s.Links.Delete(api.HostIfName(q.Attachment))
	}
	if err := s.undo(rec); err != nil {
		return nil, err
	}
	if rec.Committed {
		s.Changed()
	}
	return api.DelReply{HostIfName: rec.HostIfName, Addresses: rec.Addresses}, nil
}

// check handles CHECK: it returns the record's content.
func (s *Server) check(r *request) (any, error) {
	var q api.DelRequest
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	rec, ok := s.Pool.Get(q.Attachment)
	if !ok || !rec.Committed {
		return nil, &api.Error{Code: api.CodeUnknown, Message: "no record of " + ipam.Name(q.Attachment)}
	}
	return s.reply(rec), nil
}

// gc handles GC: it removes the attachments of a network that are missing from the runtime's list. It continues after
// single failures and joins their errors.
func (s *Server) gc(r *request) (any, error) {
	var q api.GCRequest
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	out := api.GCReply{Removed: []api.Attachment{}}
	var errs []error
	for _, rec := range s.Pool.Records() {
		if rec.Network != q.Network || slices.Contains(q.Valid, rec.Attachment) || s.busy(rec.Attachment) {
			continue
		}
		if err := s.undo(rec); err != nil {
			errs = append(errs, err)
			continue
		}
		out.Removed = append(out.Removed, rec.Attachment)
	}
	if len(out.Removed) > 0 {
		s.Log.Info("garbage collection removed attachments", "network", q.Network, "count", len(out.Removed))
		s.Changed()
	}
	return out, errors.Join(errs...)
}

// busy reports whether a call for the attachment is in progress.
func (s *Server) busy(at api.Attachment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[at] != nil
}

// status handles STATUS. It fails only when ADD has been impossible for longer than a restart takes: runtimes take a node
// out of service because of it. A full block or an unreachable store does not fail it: Pods that run are not affected.
func (s *Server) status(*request) (any, error) {
	reason := s.notReady()
	s.mu.Lock()
	defer s.mu.Unlock()
	if reason == "" || s.now().Sub(s.notReadySince) < s.Grace {
		return api.StatusReply{}, nil
	}
	return api.StatusReply{Code: api.CodeUnavailable, Reason: reason}, nil
}

// notReady returns the reason of Ready and records since when there is one.
func (s *Server) notReady() string {
	reason := s.Ready()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case reason == "":
		s.notReadySince = time.Time{}
	case s.notReadySince.IsZero():
		s.notReadySince = s.now()
	}
	return reason
}
