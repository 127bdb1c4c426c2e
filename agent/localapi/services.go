package localapi

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// maxFlows bounds one answer.
const maxFlows = 100000

func (s *Server) flows(w http.ResponseWriter, _ *http.Request) {
	out := []api.Flow{}
	s.DataPath.Use(func(lb *servicelb.Balancer, _ *tunnel.Tunnel) {
		for _, f := range lb.Flows(func(servicelb.Flow) bool { return true }, maxFlows) {
			out = append(out, flowOf(f))
		}
	})
	reply(w, out)
}

func flowOf(f servicelb.Flow) api.Flow {
	kind := "service"
	if f.Masquerade {
		kind = "masquerade"
	}
	return api.Flow{Protocol: model.Protocol(f.Proto).String(), State: f.State, Kind: kind,
		Client: f.Client, Service: f.Service, Source: f.Source, Backend: f.Backend,
		Offloaded: f.Offloaded, Age: int(f.Age.Seconds()), Idle: int(f.Idle.Seconds())}
}

func (s *Server) services(w http.ResponseWriter, _ *http.Request) {
	out := []api.Frontend{}
	if applied := s.View.Applied(); applied != nil {
		for _, f := range applied.Plan.Table.Frontends() {
			out = append(out, api.Frontend{Service: f.Service.String(), Port: f.Port, Kind: f.Kind,
				Protocol: model.Protocol(f.Proto).String(),
				Address:  f.Address, Backends: f.Backends, External: f.External})
		}
		for _, r := range applied.Plan.Table.Refusals() {
			out = append(out, api.Frontend{Service: r.Object.String(), Kind: r.Class.String(), Protocol: r.ProtocolText(),
				Requested: r.At(), Refused: r.Reason})
		}
	}
	reply(w, out)
}

func (s *Server) endpoints(w http.ResponseWriter, _ *http.Request) {
	out := []api.Endpoint{}
	if snap := s.View.Snapshot(); snap != nil {
		for i := range snap.Slices {
			out = append(out, endpointsOf(&snap.Slices[i])...)
		}
	}
	s.DataPath.Use(func(lb *servicelb.Balancer, _ *tunnel.Tunnel) { markEjected(out, lb.Ejections()) })
	reply(w, out)
}

// markEjected marks the endpoints that the balancer has ejected.
func markEjected(list []api.Endpoint, ejections []servicelb.Ejection) {
	for _, e := range ejections {
		port := e.Port
		if port == "" {
			port = strconv.Itoa(int(e.Backend.Port()))
		}
		for i := range list {
			if x := &list[i]; x.Service == e.Service && x.Address == e.Backend.Addr() {
				x.Ejected = append(x.Ejected, api.Ejection{Port: port, Seconds: e.Left})
			}
		}
	}
}

func endpointsOf(s *model.EndpointSlice) (out []api.Endpoint) {
	var ports []string
	for _, p := range s.Ports {
		ports = append(ports, strings.TrimPrefix(fmt.Sprintf("%s:%d/%s", p.Name, p.Port, p.Protocol), ":"))
	}
	for _, e := range s.Endpoints {
		x := api.Endpoint{Service: s.Namespace + "/" + s.Service, Address: e.Addr, Ports: ports, Condition: condition(e),
			Node: e.Node, Zone: e.Zone, ZoneHints: e.ZoneHints, NodeHints: e.NodeHints}
		if e.Pod.Name != "" {
			x.Pod = e.Pod.String()
		}
		out = append(out, x)
	}
	return out
}

// condition returns the state of an endpoint in the terms of EndpointSlice conditions.
func condition(e model.Endpoint) string {
	switch {
	case e.Ready:
		return "ready"
	case e.Serving && e.Terminating:
		return "serving, terminating"
	case e.Terminating:
		return "terminating"
	}
	return "not ready"
}
