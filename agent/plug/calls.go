package plug

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// claimWait bounds how long an ADD waits for the end of another one of the same attachment.
const claimWait = 3 * time.Second

// add reserves addresses for the life of the connection.
func (s *Server) add(r *request) (any, error) {
	var q api.AddRequest
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if why := s.notReady(); why != "" {
		return nil, &api.Error{Code: api.CodeTryAgain, Message: "the agent cannot plug Pods yet", Details: why}
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

// reserve makes the record of an ADD. One that was left over is replaced, one whose interface lives is defended.
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
			Message: fmt.Sprintf("%s has the interface %s on the node without a record: DEL it first", ipam.Name(q.Attachment), name)}
	}
	return s.fromPool(ctx, ipam.Record{Attachment: q.Attachment, Network: q.Network, Netns: q.Netns,
		PodNamespace: q.PodNamespace, PodName: q.PodName, PodUID: q.PodUID, Requested: q.IPs, HostIfName: name,
		MAC: q.MAC, Labels: q.Labels, DNS: q.DNS, PortMappings: q.PortMappings, Created: s.now().UTC().Truncate(time.Second)})
}

// fromPool reserves addresses, once more when the pool was full and got room.
func (s *Server) fromPool(ctx context.Context, want ipam.Record) (ipam.Record, error) {
	rec, _, err := s.Pool.Reserve(want)
	var full *ipam.FullError
	if s.More == nil || !errors.As(err, &full) {
		return rec, err
	}
	if why := s.More(ctx); why != nil {
		return rec, &api.Error{Code: api.CodeFull, Message: err.Error(), Details: why.Error()}
	}
	rec, _, err = s.Pool.Reserve(want)
	return rec, err
}

// clearStale removes a record that no interface stands behind.
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

// commit keeps the reservation of this very connection.
func (s *Server) commit(r *request) (any, error) {
	var q api.CommitRequest
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	ses := sessionOf(r)
	if !s.holds(ses, q.Attachment) {
		return nil, &api.Error{Code: api.CodeTryAgain, Message: "commit of " + ipam.Name(q.Attachment) + ": this connection holds no reservation of it"}
	}
	if _, err := s.Pool.Commit(q.Attachment, q.MAC); err != nil {
		return nil, err
	}
	s.release(q.Attachment, ses)
	s.Changed()
	s.Added(s.now().Sub(ses.began))
	return struct{}{}, nil
}

// del removes the interface and then the record. The interface goes by its derived name even without a record.
func (s *Server) del(r *request) (any, error) {
	var q api.DelRequest
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	ses := sessionOf(r)
	if !s.holds(ses, q.Attachment) { // a failed ADD gives its own reservation back
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

// check returns what the record says.
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

// gc removes the attachments of a network that the runtime does not know. It carries on past single failures.
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
		s.Log.Info("garbage collected", "network", q.Network, "attachments", len(out.Removed))
		s.Changed()
	}
	return out, errors.Join(errs...)
}

// busy says whether an ADD or DEL of the attachment is under way.
func (s *Server) busy(at api.Attachment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[at] != nil
}

// status fails only when no ADD has been possible for longer than a restart takes: runtimes take a node out of
// service because of it. A full block, or a store that is away, does not keep the next node from being chosen.
func (s *Server) status(*request) (any, error) {
	why := s.notReady()
	s.mu.Lock()
	defer s.mu.Unlock()
	if why == "" || s.now().Sub(s.away) < s.Grace {
		return api.StatusReply{}, nil
	}
	return api.StatusReply{Code: api.CodeUnavailable, Reason: why}, nil
}

// notReady asks Ready and remembers since when it has been saying no.
func (s *Server) notReady() string {
	why := s.Ready()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case why == "":
		s.away = time.Time{}
	case s.away.IsZero():
		s.away = s.now()
	}
	return why
}
