// Once, and harmless when it is repeated: the replica set, root, and the user that Feedlab connects as.
const { MONGODB_MEMBERS, MONGODB_ROOT_PASSWORD, MONGODB_PASSWORD } = process.env;
const members = MONGODB_MEMBERS.split(",").map((host, n) => ({ _id: n + 1, host, priority: n === 0 ? 2 : 1 }));
let hasRoot = true;
try {
  db.auth("root", MONGODB_ROOT_PASSWORD);
} catch (error) {
  if (error.codeName !== "AuthenticationFailed") throw error;
  hasRoot = false;
}
try {
  rs.initiate({ _id: "feedlab", members });
} catch (error) {
  if (error.codeName !== "AlreadyInitialized") throw error;
}
while (!db.hello().isWritablePrimary) sleep(500);
if (!hasRoot) {
  // Whoever comes from MongoDB's own machine may make its first user, and nobody another one.
  db.createUser({ user: "root", pwd: MONGODB_ROOT_PASSWORD, roles: ["root"] });
  db.auth("root", MONGODB_ROOT_PASSWORD);
}
const feedlab = db.getSiblingDB("feedlab");
const user = { pwd: MONGODB_PASSWORD, roles: [{ role: "readWrite", db: "feedlab" }] };
if (feedlab.getUser("feedlab")) feedlab.updateUser("feedlab", user); // it may be another password by now
else feedlab.createUser({ user: "feedlab", ...user });
