#!/usr/bin/env bash
# Starts the bare cluster: no CNI, no kube-proxy, no cluster DNS. Nodes stay
# NotReady until there is a CNI configuration in their /etc/cni/net.d.
source "$(dirname "$0")/lib.sh"
[[ -e $run/$cp_node.pid ]] && { echo "already up? run down.sh first" >&2; exit 1; }
t0=$SECONDS
mkdir -p "$run" "$pki"; echo "$RIG_NODES" >"$run/nodes"; echo "$FAMILIES" >"$run/families"
[[ -s $RIG_STATE/images/pause.name ]] || "$rig/images.sh"

# --- certificates -----------------------------------------------------------
cert() { # cert NAME SUBJECT [SAN]
  openssl req -new -newkey rsa:2048 -nodes -subj "$2" -keyout "$pki/$1.key" -out "$pki/$1.csr" 2>/dev/null
  openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 30 -out "$pki/$1.crt" \
    -extfile <(echo "extendedKeyUsage=serverAuth,clientAuth"; [[ -z ${3:-} ]] || echo "subjectAltName=$3") 2>/dev/null
  rm "$pki/$1.csr"
}
conf() { # conf NAME: kubeconfig of that certificate
  printf '%s\n' "apiVersion: v1" "kind: Config" "current-context: rig" \
    "contexts: [{name: rig, context: {cluster: rig, user: $1}}]" \
    "clusters: [{name: rig, cluster: {server: \"$api\", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}]" \
    "users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}}]" >"$pki/$1.kubeconfig"
}
if [[ ! -s $pki/admin.kubeconfig ]]; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=rig-ca -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
  openssl genrsa -out "$pki/sa.key" 2048 2>/dev/null; openssl rsa -in "$pki/sa.key" -pubout -out "$pki/sa.pub" 2>/dev/null
  cert apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.$DNS_DOMAIN,DNS:localhost,IP:$SVC_API,IP:$(node_ip "$cp_node"),IP:127.0.0.1"
  cert kubelet-client /O=system:masters/CN=kubelet-client; cert front-proxy /CN=front-proxy
  cert kcm /CN=system:kube-controller-manager; conf kcm
  cert scheduler /CN=system:kube-scheduler; conf scheduler
  cert proxy /CN=system:kube-proxy; conf proxy
  cert admin /O=system:masters/CN=admin; conf admin
fi
for n in "${nodes[@]}"; do
  [[ -s $pki/$n.kubeconfig ]] || { cert "$n" "/O=system:nodes/CN=system:node:$n"; conf "$n"; }
done

# --- network: one switch, no external network ----------------------------------------
ip netns add "$(ns dc)"
ip -n "$(ns dc)" link add br0 type bridge; ip -n "$(ns dc)" link set br0 up; ip -n "$(ns dc)" link set lo up
ip netns exec "$(ns dc)" sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
plug ext "$ext_ip" "$ext_ip6"
for n in "${nodes[@]}"; do plug_node "$n"; done

# --- the outside host: an upstream DNS server with two known names ---------
cat >"$run/ext.Corefile" <<C
.:53 {
  hosts {
    $ext_ip upstream.rig.test
    $ext_ip6 upstream.rig.test
    8.8.8.8 dns.google
  }
  log
}
C
(exec ip netns exec "$(ns ext)" setsid "$RIG_BIN/coredns" -conf "$run/ext.Corefile") >"$run/ext-dns.log" 2>&1 </dev/null &
echo $! >"$run/ext-dns.pid"

# --- nodes ------------------------------------------------------------------
for n in "${nodes[@]}"; do start_node "$n"; done
until_ok 180 "API server" k get --raw /readyz
for n in "${nodes[@]}"; do until_ok 180 "node $n registered" k get node "$n"; done
for i in "${!nodes[@]}"; do
  k label node "${nodes[$i]}" topology.kubernetes.io/region=rig topology.kubernetes.io/zone="zone-$((i % 3))" --overwrite >/dev/null
done
echo "up after $((SECONDS - t0)) s; export KUBECONFIG=$KUBECONFIG; $rig/in.sh ext kubectl get nodes"
