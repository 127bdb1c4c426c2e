/* resolve NAME [4|6]: what this C library's resolver makes of a name, one address a line. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *r;
	if (argc < 2)
		return 1;
	if (argc > 2)
		hints.ai_family = argv[2][0] == '6' ? AF_INET6 : AF_INET;
	int e = getaddrinfo(argv[1], NULL, &hints, &r);
	if (e) {
		fprintf(stderr, "%s\n", gai_strerror(e));
		return 2;
	}
	for (; r; r = r->ai_next) {
		char buf[64];
		if (getnameinfo(r->ai_addr, r->ai_addrlen, buf, sizeof buf, NULL, 0, NI_NUMERICHOST) == 0)
			puts(buf);
	}
	return 0;
}
