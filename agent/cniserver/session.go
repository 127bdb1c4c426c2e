package cniserver

import (
	"context"
	"net"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

type sessionKey struct{}

// session is one connection of the plugin. It holds at most one reservation, from ADD to commit.
type session struct {
	began   time.Time
	ended   chan struct{} // closed after the connection ended and its reservation was released
	pending *ipam.Record  // guarded by Server.mu
}

// connected makes the session of a new connection; the http.Server calls it.
func (s *Server) connected(ctx context.Context, c net.Conn) context.Context {
	ses := &session{began: s.now(), ended: make(chan struct{})}
	s.conns.Store(c, ses)
	return context.WithValue(ctx, sessionKey{}, ses)
}

// disconnected undoes an ADD that was not committed. The plugin makes no further change by then: the kernel closes the
// sockets of a process after its last system call.
func (s *Server) disconnected(c net.Conn) {
	v, ok := s.conns.LoadAndDelete(c)
	if !ok {
		return
	}
	ses := v.(*session)
	s.mu.Lock()
	r := ses.pending
	s.mu.Unlock()
	if r != nil {
		s.Log.Info("CNI ADD ended before its commit; undoing it", "container", r.ContainerID, "interface", r.IfName)
		if err := s.undo(*r); err != nil {
			s.Log.Error("cannot undo CNI ADD; retrying in the next reconciliation", "container", r.ContainerID, "interface", r.IfName,
				"err", err)
		}
		s.mu.Lock()
		ses.pending = nil
		delete(s.sessions, r.Attachment)
		s.mu.Unlock()
	}
	close(ses.ended)
}

// undo deletes an interface and releases its record.
func (s *Server) undo(r ipam.Record) error {
	if err := s.Links.Delete(r.HostIfName); err != nil {
		return err // the record keeps the address while the interface may exist
	}
	_, _, err := s.Pool.Release(r.Attachment)
	return err
}

func sessionOf(r *request) *session {
	ses, _ := r.Context().Value(sessionKey{}).(*session)
	return ses
}

// claim makes the session the only one that works on an attachment. It waits for the end of another session, because a
// runtime may retry before the agent has noticed the end of a killed plugin's connection.
func (s *Server) claim(r *request, at api.Attachment) (*session, error) {
	ses := sessionOf(r)
	if ses == nil {
		return nil, &api.Error{Code: api.CodeInternal,
			Message: "the connection has no session: cniserver.Server is not attached to the HTTP server"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), claimWait)
	defer cancel()
	for {
		s.mu.Lock()
		other := s.sessions[at]
		if other == nil && ses.pending == nil {
			s.sessions[at] = ses
			s.mu.Unlock()
			return ses, nil
		}
		s.mu.Unlock()
		if other == nil || other == ses {
			return nil, &api.Error{Code: api.CodeInternal, Message: "this connection holds a reservation already"}
		}
		select {
		case <-other.ended:
		case <-ctx.Done():
			return nil, &api.Error{Code: api.CodeTryAgain, Message: "another call for " + ipam.Name(at) + " is in progress"}
		}
	}
}

// holds reports whether the connection holds a reservation for the attachment.
func (s *Server) holds(ses *session, at api.Attachment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ses != nil && ses.pending != nil && ses.pending.Attachment == at
}

// release ends the claim of a session on an attachment.
func (s *Server) release(at api.Attachment, ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[at] == ses {
		delete(s.sessions, at)
	}
	ses.pending = nil
}
