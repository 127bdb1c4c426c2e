package localapi

import (
	"errors"
	"net/http"

	"github.com/warrennet/warren/internal/api"
)

// key is the state of the node's WireGuard key.
func (s *Server) key() api.Key {
	public, next := s.Keys.Record()
	out := api.Key{Current: s.Keys.Current().Public.String(), Published: public.String(), Rotating: s.Keys.Rotating(),
		Problem: s.Keys.Problem()}
	if !next.IsZero() {
		out.Next = next.String()
	}
	return out
}

// rotateKey begins the replacement of the node's WireGuard key.
func (s *Server) rotateKey(w http.ResponseWriter, r *http.Request) {
	if len(s.External.List()) > 0 && r.URL.Query().Get("force") != "true" {
		refuse(w, http.StatusConflict, errors.New("this node has external peers, which have its public key in their configuration and "+
			"lose their tunnel: use --force, and give them the new key (warren status)"))
		return
	}
	if err := s.Keys.Rotate(); err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	reply(w, s.key())
}
