package config

import (
	"time"
)

const description = `A server of limpet.v1 for WebSocket clients. Several gateways that share a NATS JetStream or a Redis
serve one log: a client that loses its gateway resumes at another one. Each setting is a flag, a key of the file that
-config names, and an environment variable (listen: LIMPET_GATEWAY_LISTEN). A flag wins over the environment, and that
over the file.`

// Config is the settings. The tag name is the key of a setting.
type Config struct {
	Config string `name:"config" short:"c" help:"YAML file with settings; gateway.example.yaml has all of them." placeholder:"FILE"`

	Listen      string   `name:"listen" default:"127.0.0.1:8080" help:"Address for clients, and for /healthz and /livez." group:"Addresses"`
	AdminListen string   `name:"admin-listen" default:"127.0.0.1:8081" help:"Address for /metrics, /publish, /healthz and /livez; empty: none. Keep it inside your network." group:"Addresses"`
	TLSCert     string   `name:"tls-cert" help:"Certificate in PEM, with its chain. Read again when the file changes." placeholder:"FILE" group:"Addresses"`
	TLSKey      string   `name:"tls-key" help:"Private key of the certificate, in PEM." placeholder:"FILE" group:"Addresses"`
	Hosts       []string `name:"hosts" help:"Names that clients use for this server, such as feed.example.com; '*': any. Loopback names are always served." group:"Addresses"`
	Origins     []string `name:"origins" help:"Origins of browser pages that may connect, such as https://app.example.com." group:"Addresses"`
	Proxies     []string `name:"trusted-proxies" help:"Networks whose X-Forwarded-For is believed, such as 10.0.0.0/8." group:"Addresses"`

	Engine     string        `name:"engine" default:"memory" help:"Where sessions, messages and ids are kept: memory, file, jetstream or redis." group:"Engine"`
	Dir        string        `name:"dir" help:"Directory of the engine file." placeholder:"DIR" group:"Engine"`
	Log        string        `name:"log" default:"limpet" help:"Name of the log in JetStream or Redis. Gateways with the same name serve the same messages." group:"Engine"`
	NATSURL    string        `name:"nats-url" help:"URLs of the NATS servers, comma-separated." group:"Engine"`
	NATSCreds  string        `name:"nats-creds" help:"File with the credentials for NATS." placeholder:"FILE" group:"Engine"`
	RedisURL   string        `name:"redis-url" help:"URL of Redis, such as redis://host:6379/0." group:"Engine"`
	EngineCA   string        `name:"engine-ca" help:"Certificates, in PEM, of those who sign the certificate of NATS or Redis; without it, those of the system. Needs tls:// or rediss://." placeholder:"FILE" group:"Engine"`
	EngineCert string        `name:"engine-cert" help:"Certificate in PEM with which this gateway shows who it is. Read again for each connection." placeholder:"FILE" group:"Engine"`
	EngineKey  string        `name:"engine-key" help:"Private key of engine-cert, in PEM." placeholder:"FILE" group:"Engine"`
	EngineName string        `name:"engine-name" help:"Name that the certificate of NATS or Redis must have, if it is not that of the URL." group:"Engine"`
	RedisWait  int           `name:"redis-wait" help:"Replicas that must have a message before it is acknowledged (WAIT)." group:"Engine"`
	MaxCount   int           `name:"retention-count" default:"0" help:"Messages that are kept; 0: 100,000, and no bound with jetstream." group:"Engine"`
	MaxBytes   int           `name:"retention-bytes" default:"0" help:"Bytes of messages that are kept, not with redis; 0: 64 MiB, and no bound with jetstream." group:"Engine"`
	MaxAge     time.Duration `name:"retention-age" default:"0s" help:"How long a message is kept; 0s: no bound, and a day with jetstream." group:"Engine"`
	SessionTTL time.Duration `name:"session-ttl" default:"15m" help:"How long a session without a connection is kept." group:"Engine"`
	Dedup      time.Duration `name:"dedup" default:"1h" help:"How long message ids are remembered." group:"Engine"`

	Auth         string        `name:"auth" help:"Who clients are: none, jwt or http. Defaults to none where listen is a loopback address; otherwise it must be set." group:"Access"`
	JWTKeys      []string      `name:"jwt-keys" help:"Files with keys for tokens: a public key in PEM, or a secret of 32 bytes or more. Several: any of them." placeholder:"FILE" group:"Access"`
	JWTIssuer    string        `name:"jwt-issuer" help:"Claim iss that a token must have." group:"Access"`
	JWTAudience  string        `name:"jwt-audience" help:"Claim aud that a token must have." group:"Access"`
	AuthURL      string        `name:"auth-url" help:"URL that is asked about each token: see the README." group:"Access"`
	AuthTimeout  time.Duration `name:"auth-timeout" default:"5s" help:"How long an answer of auth-url may take." group:"Access"`
	Subscribe    []string      `name:"allow-subscribe" help:"Patterns that clients may subscribe to if their token does not say; {id} is the client. With auth none the default is everything, else nothing." group:"Access"`
	Publish      []string      `name:"allow-publish" help:"The same for publishing." group:"Access"`
	PublishToken string        `name:"publish-token-file" help:"File with the bearer token of /publish. Without it there is no /publish." placeholder:"FILE" group:"Access"`

	MaxConns     int           `name:"max-connections" default:"10000" help:"Connections of this gateway." group:"Limits"`
	MaxPerAddr   int           `name:"max-connections-per-address" default:"0" help:"Connections from one address, or one IPv6 network of 64 bits; 0: no bound." group:"Limits"`
	MaxPerClient int           `name:"max-connections-per-client" default:"0" help:"Connections of one client, by its id; 0: no bound." group:"Limits"`
	ConnectRate  int           `name:"connect-rate" default:"1000" help:"Connections that are taken in a second. Share out what the engine can take among the gateways." group:"Limits"`
	EngineBudget time.Duration `name:"engine-budget" default:"5s" help:"How long jetstream or redis may take for a call, on average, before new connections are refused until it is faster; 0s: no bound." group:"Limits"`
	PublishRate  int           `name:"publish-rate" default:"0" help:"Messages that one connection may publish in a second; more have to wait. 0: no bound." group:"Limits"`
	MaxPayload   int           `name:"max-payload" default:"262144" help:"Bytes of one payload." group:"Limits"`
	Heartbeat    time.Duration `name:"heartbeat" default:"20s" help:"Interval in which each connection carries something." group:"Limits"`

	DrainWait   time.Duration `name:"drain-wait" default:"2s" help:"After SIGTERM, how long /healthz fails before clients are asked to leave: longer than the proxy needs to notice." group:"Shutdown"`
	DrainSpread time.Duration `name:"drain-spread" default:"10s" help:"The time over which clients leave. Half as long again later, what is left is closed." group:"Shutdown"`

	LogLevel  string `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error." group:"Log"`
	LogFormat string `name:"log-format" default:"text" enum:"text,json" help:"text or json." group:"Log"`
}
