package localapi

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

// maxEnv bounds the service variables of one Pod in bytes: execve takes two megabytes of arguments and environment in
// all on Linux. A Pod that lacks variables is better than one that cannot start.
const maxEnv = 512 << 10

// serviceEnv makes the variables that Kubernetes gives Pods of a namespace ({SVC}_SERVICE_HOST and the docker-links set):
// Services with a ClusterIP, in the order of their names. warning reports Services without variables, "" for none.
func serviceEnv(snap *model.Snapshot, namespace string) (out []string, warning string) {
	size, left := 0, 0
	for i := range snap.Services {
		s := &snap.Services[i]
		if s.Namespace != namespace || len(s.ClusterIPs) == 0 || len(s.Ports) == 0 {
			continue
		}
		vars := envOf(s)
		n := 0
		for _, v := range vars {
			n += len(v) + 1
		}
		if size+n > maxEnv {
			left++
			continue
		}
		size += n
		out = append(out, vars...)
	}
	if left > 0 {
		warning = fmt.Sprintf("the variables of %d Services of namespace %s were left out: together they exceed %d bytes",
			left, namespace, maxEnv)
	}
	return out, warning
}

func envOf(s *model.Service) (out []string) {
	name := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	ip := s.ClusterIPs[0].String()
	set := func(key string, value any) { out = append(out, fmt.Sprintf("%s%s=%v", name, key, value)) }
	set("_SERVICE_HOST", ip)
	set("_SERVICE_PORT", s.Ports[0].Port)
	for _, p := range s.Ports {
		if p.Name != "" {
			set("_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_")), p.Port)
		}
	}
	for i, p := range s.Ports {
		proto := strings.ToLower(p.Protocol.String())
		url := proto + "://" + net.JoinHostPort(ip, strconv.Itoa(int(p.Port)))
		if i == 0 {
			set("_PORT", url)
		}
		prefix := fmt.Sprintf("_PORT_%d_%s", p.Port, strings.ToUpper(proto))
		set(prefix, url)
		set(prefix+"_PROTO", proto)
		set(prefix+"_PORT", p.Port)
		set(prefix+"_ADDR", ip)
	}
	return out
}

func (s *Server) env(w http.ResponseWriter, r *http.Request) {
	snap := s.View.Snapshot()
	if snap == nil {
		refuse(w, http.StatusServiceUnavailable, errNoSnapshot)
		return
	}
	var e api.Env
	e.Variables, e.Warning = serviceEnv(snap, r.URL.Query().Get("namespace"))
	reply(w, e)
}
