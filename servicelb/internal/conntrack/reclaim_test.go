package conntrack

import "testing"

// A full table consists of half-open flows of many clients with one flow each. A client whose counter others share is
// admitted like any other.
func TestAdmit_CounterSharedByClients_Admitted(t *testing.T) {
	f := openFile(t, "", 512, nil)
	open := func(c Client, port uint16) Admission {
		slot, a := f.Admit(c, now)
		if a == Admitted {
			n := newFlow(port)
			n.Client = c
			if f.Insert(slot, n) != Inserted {
				t.Fatal("the flow was not inserted")
			}
		}
		return a
	}
	const shared = Client(1000)
	for port := range uint16(3) {
		open(shared, port)
	}
	for port := uint16(3); port < 512; port++ {
		open(Client(port), port)
	}
	for port := uint16(1000); port < 1004; port++ {
		if a := open(shared, port); a != Admitted {
			t.Errorf("admission %d of a client with %d flows, expected %d", a, port-1000+3, Admitted)
		}
	}
	check(t, f)
}
