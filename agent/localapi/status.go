package localapi

import (
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// Status returns what `warren status` shows.
func (s *Server) Status() api.Status {
	st := s.View.Node()
	if reason := s.View.NotReady(); reason != "" {
		st.Problems = append([]string{reason}, st.Problems...)
	} else {
		st.Ready = true
	}
	snap := s.View.Snapshot()
	if snap != nil {
		st.Revision, st.ServiceCIDRs = snap.Revision, snap.ServiceCIDRs
	}
	applied := s.View.Applied()
	if applied == nil {
		return st
	}
	p := applied.Plan
	st.Applied, st.MTU, st.Addresses = applied.Revision, p.MTU, p.Node.Addresses
	st.Problems = append(st.Problems, p.Problems...)
	if applied.Err != nil {
		st.Problems = append(st.Problems, "plan not applied completely: "+applied.Err.Error())
	}
	for _, err := range applied.Refused {
		st.Problems = append(st.Problems, "plan not applied completely: "+err.Error())
	}
	for _, err := range applied.Sockets {
		st.Problems = append(st.Problems, "socket not open: "+err.Error()+"; retrying")
	}
	var live []tunnel.PeerStatus
	s.DataPath.Use(func(_ *servicelb.Balancer, tun *tunnel.Tunnel) { live, st.Tunnel = tun.Peers(), tun.Stats() })
	st.Peers = peerStatus(snap, p.Peers, live)
	st.Problems = append(st.Problems, peerProblems(st.Peers)...)
	st.Problems = append(st.Problems, s.announceProblems()...)
	return st
}
